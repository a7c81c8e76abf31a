"""What DeepLift does in place of each operation: its derivative becomes its slope from the baseline.

Sums need nothing: their derivative is the slope. An elementwise function has the slope between its two values, a
product the mean of the other factor. What is neither is taken apart.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretability.attribution.difference_rules import (
    log_sum_exp_slopes,
    max_pool_rule,
    normalisation_rule,
    quotient_rule,
    softmax_rule,
)
from interpretability.attribution.normalisations import NORMALISATIONS, functional_order, running_statistics
from interpretability.attribution.operations import (
    Carry,
    Handler,
    Operations,
    UnsupportedOperation,
    check_dropout,
    operands,
    softmax_axis,
    taken_apart,
    value_of,
)
from interpretability.attribution.taken_apart import APART
from interpretability.attribution.torch_functions import (
    ACTIVATIONS,
    AVERAGES,
    BILINEAR,
    DROPOUTS,
    FUNCTIONS,
    MAX_POOLS,
    MIXTURES,
    REARRANGEMENTS,
    operation_name,
)

Seen = tuple[str, tuple[Tensor, ...]]  # a non-linear operation's name, its inputs and results


class Incomparable(UnsupportedOperation):
    """Other operations at x than at the baseline, or a value of another shape."""


class DifferenceOperations(Operations):
    """A forward pass in which the derivative of an operation is its slope from the baseline.

    Args:
        x: the input.
        reference: what the pass at the baseline has ``seen``; None for that pass itself.
    """

    method = "DeepLift"

    def __init__(self, x: Tensor, reference: list[Seen] | None = None):
        super().__init__(x)
        self.seen: list[Seen] = []
        self.reference = reference

    def _counterpart(self, func: Callable, *values: Tensor) -> tuple[Tensor, ...]:
        """These values' counterparts at the baseline; at the baseline, themselves."""
        self.seen.append((operation_name(func), values))
        if self.reference is None:
            return values
        step = len(self.seen)
        if step > len(self.reference) or self.reference[step - 1][0] != self.seen[-1][0]:
            raise Incomparable("DeepLift needs the same operations at x and at the baseline; the model differs")
        found = self.reference[step - 1][1]
        for here, there in zip(values, found):
            if here.ndim != there.ndim or any(b not in (1, a) for a, b in zip(here.shape, there.shape)):
                shapes = f"{tuple(here.shape)} and {tuple(there.shape)}"
                raise Incomparable(f"DeepLift cannot compare {self.seen[-1][0]} at x with the baseline, {shapes}")
        return found

    def _linear(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """The derivative is the slope."""
        return func(*args, **kwargs)

    def _linear_in_one(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Linear in the input as long as the other arguments do not depend on it."""
        self.only_input(func, args, kwargs)
        return func(*args, **kwargs)

    def _dropout(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        check_dropout(func, args, kwargs)
        return func(*args, **kwargs)

    def _batch_norm(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        ordered = functional_order(func, args)
        if kwargs.get("training", ordered[5] if len(ordered) > 5 else False):
            raise UnsupportedOperation("DeepLift has no rule for a batch norm without running statistics")
        return self._linear_in_one(func, args, kwargs)

    def _elementwise(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """The rescale rule, Δy/Δx; where Δx vanishes, the derivative: eq. 5.9."""
        x = self.only_input(func, args, kwargs)
        place = next(i for i, value in enumerate(args) if value is x)
        y, fixed = value_of(func, args, kwargs), x.detach()
        x0, y0 = self._counterpart(func, fixed, y)
        rounding = torch.finfo(x.dtype).eps

        def shared(m: Tensor) -> tuple[Tensor]:
            dx = fixed - x0
            slope = (y - y0) / dx
            unmoved = dx.abs() <= rounding * torch.maximum(fixed.abs(), x0.abs())
            if unmoved.any():
                leaf = fixed.expand(y.shape).clone().requires_grad_()
                with torch.enable_grad():
                    values = func(*args[:place], leaf, *args[place + 1 :], **kwargs)
                    (derivative,) = torch.autograd.grad(values.sum(), leaf)
                finite = derivative.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # as of a root at zero
                slope = torch.where(unmoved, finite, slope)
            return ((m * slope).sum_to_size(fixed.shape),)

        return Carry.apply(y, shared, x)

    def _max_pool(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """All of Δy goes to the place of the larger maximum, at x or at the baseline: eq. 5.10."""
        x = self.only_input(func, args, kwargs)
        name = operation_name(func)
        if kwargs.get("return_indices") or func.__name__ != name:
            raise self.unsupported(f"{name} that returns indices")
        pool: Callable = getattr(F, name)
        with torch.no_grad():
            y, places = pool(x, *args[1:], **kwargs | {"return_indices": True})
        return self._chosen(func, x, y, places, int(name[-2]))

    def _chosen(self, func: Callable, x: Tensor, y: Tensor, places: Tensor, dimensions: int) -> Tensor:
        """``y``, the values of ``x`` at ``places`` of its last ``dimensions`` axes."""
        fixed = x.detach()
        x0, y0, places0 = self._counterpart(func, fixed, y, places)

        def flat(value: Tensor) -> Tensor:
            return value.flatten(-dimensions)

        def shared(m: Tensor) -> tuple[Tensor]:
            place = torch.where(y >= y0, places, places0)
            found = max_pool_rule(flat(m), flat(fixed), flat(x0), flat(y), flat(y0), flat(place))
            return (found.view(fixed.shape),)

        return Carry.apply(y, shared, x)

    def _amax(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A pooling of one window: the axes that it goes over, last."""
        x = self.only_input(func, args, kwargs)
        given = dict(zip(("input", "dim", "keepdim"), args)) | kwargs
        dim, keepdim = given.get("dim", ()), given.get("keepdim", False)
        axes = [axis % x.ndim for axis in ((dim,) if isinstance(dim, int) else dim or range(x.ndim))]
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        last = x.permute(*kept, *axes).flatten(len(kept))
        y, places = last.detach().max(dim=-1, keepdim=True)
        chosen = self._chosen(func, last, y, places, 1).squeeze(-1)
        return chosen.view([1 if axis in axes else size for axis, size in enumerate(x.shape)]) if keepdim else chosen

    def _larger(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """max(a, b) = b + max(a − b, 0), and min(a, b) = a − max(a − b, 0)."""
        if not all(map(self.follows, args[:2])):
            return self._elementwise(func, args, kwargs)
        a, b = args
        with self:
            return b + (a - b).relu() if operation_name(func) in ("maximum", "fmax") else a - (a - b).relu()

    def _product(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Of two values that both depend on the input: each has the other's mean as its multiplier, eq. 5.11.

        That is the gradient half way between baseline and input.
        """
        args = operands(func, args)
        places = [i for i, value in enumerate(args) if self.follows(value)]
        if len(places) == 1:
            return func(*args, **kwargs)
        if len(places) > 2:
            raise self.unsupported(f"{operation_name(func)} of more than two values that depend on the input")
        values = [args[i].detach() for i in places]
        y = value_of(func, args, kwargs)
        at_baseline = self._counterpart(func, *values)

        def shared(m: Tensor) -> tuple[Tensor, ...]:
            middles = [((a + b) / 2).requires_grad_() for a, b in zip(values, at_baseline)]
            with torch.enable_grad():
                z = func(*[middles[places.index(i)] if i in places else a for i, a in enumerate(args)], **kwargs)
            return torch.autograd.grad(z, middles, m)

        return Carry.apply(y, shared, *[args[i] for i in places])

    def _divide(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Eq. 5.22."""
        if kwargs.get("rounding_mode"):
            raise self.unsupported("a division that rounds")
        if not self.follows(args[1]):
            return func(*args, **kwargs)
        b = args[1].detach()
        a = args[0].detach() if isinstance(args[0], Tensor) else torch.full_like(b, args[0])
        a0, b0 = self._counterpart(func, a, b)

        def shared(m: Tensor) -> tuple[Tensor, ...]:
            found = zip(args, quotient_rule(m, a, b, a0, b0))
            return tuple(one.sum_to_size(value.shape) for value, one in found if self.follows(value))

        return Carry.apply(value_of(func, args, kwargs), shared, *filter(self.follows, args[:2]))

    def _softmax(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Eq. 5.21."""
        x, dim = self.only_input(func, args, kwargs), softmax_axis(func, args, kwargs)
        fixed = x.detach()
        (x0,) = self._counterpart(func, fixed)
        p = value_of(func, args, kwargs)
        return Carry.apply(p, lambda m: (softmax_rule(m.to(fixed.dtype), fixed, x0, dim),), x)

    def _log_sum_exp(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Eq. 5.20."""
        x = self.only_input(func, args, kwargs)
        given = dict(zip(("input", "dim", "keepdim"), args)) | kwargs
        dim, fixed = given["dim"], x.detach()
        if not isinstance(dim, int):
            raise self.unsupported("logsumexp over more than one axis")
        (x0,) = self._counterpart(func, fixed)

        def shared(m: Tensor) -> tuple[Tensor]:
            m = m if given.get("keepdim") else m.unsqueeze(dim)
            return (m * log_sum_exp_slopes(fixed, x0, dim),)

        return Carry.apply(value_of(func, args, kwargs), shared, x)

    def _normalise(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Eq. 5.23."""
        x, name = self.only_input(func, args, kwargs), operation_name(func)
        if name == "instance_norm":
            args = functional_order(func, args)
            func = F.instance_norm
            if running_statistics(args, kwargs):
                return func(*args, **kwargs)
        norm, fixed = NORMALISATIONS[name](*args, **kwargs), x.detach()
        (x0,) = self._counterpart(func, fixed)
        return Carry.apply(value_of(func, args, kwargs), lambda m: (normalisation_rule(m, fixed, x0, norm),), x)

    handlers: ClassVar[dict[str, Handler]] = {
        **dict.fromkeys((*BILINEAR, "mul"), _product),
        "batch_norm": _batch_norm,
        **dict.fromkeys(MAX_POOLS, _max_pool),
        "amax": _amax,
        **dict.fromkeys(("maximum", "minimum", "fmax", "fmin"), _larger),
        **dict.fromkeys((*AVERAGES, *MIXTURES), _linear),
        **dict.fromkeys(("add", "sub", "rsub", "neg"), _linear),
        "div": _divide,
        **dict.fromkeys((*ACTIVATIONS, *FUNCTIONS), _elementwise),
        "softmax": _softmax,
        "logsumexp": _log_sum_exp,
        **dict.fromkeys(NORMALISATIONS, _normalise),
        **dict.fromkeys(APART, taken_apart),
        **dict.fromkeys(DROPOUTS, _dropout),
        **dict.fromkeys(REARRANGEMENTS, _linear),
    }
