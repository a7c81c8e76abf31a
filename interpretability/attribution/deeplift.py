"""DeepLift with the rescale rule: how the difference from a baseline gave the difference in score.

The model runs once at the baseline, where the inputs and outputs of its non-linear operations are kept, and
once at ``x``, where each such operation gets the slope between the two as its derivative. Linear operations
need none: their derivative is the slope.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpretability.attribution.base import Attribution
from interpretability.attribution.integrated import expanded
from interpretability.attribution.operations import (
    Carry,
    Handler,
    Operations,
    UnsupportedOperation,
    check_dropout,
    own_copy,
    passing_through,
    value_of,
)
from interpretability.attribution.torch_functions import (
    ACTIVATIONS,
    AVERAGES,
    CONVOLUTIONS,
    DROPOUTS,
    MAX_POOLS,
    REARRANGEMENTS,
    operation_name,
)
from interpretability.gradients import score_gradient
from interpretability.targets import Target, target_scores

ELEMENTWISE = (*ACTIVATIONS, "abs", "exp", "log", "sqrt", "square", "pow", "erf")


class DeepLift(Attribution):
    """(point − point at the baseline) · multiplier; sums to score(x) − score(baseline)   eq. 5.8, 5.9.

    Shrikumar, Greenside, Kundaje 2017, "Learning important features through propagating activation
    differences", section 3.5.1; max-pooling by eq. 5.10, products by eq. 5.11. For a callable target the sum
    holds if it is linear in the logits.

    Args:
        model, layer: as for every attribution.
        baseline: a number, or a tensor that broadcasts to ``x``; one for the whole batch is run once.

    Raises:
        ValueError: an operation of the model without a rule, or a baseline that does not fit.
    """

    def __init__(self, model: nn.Module, layer: str | None = None, *, baseline: float | Tensor = 0.0):
        super().__init__(model, layer)
        self.baseline = baseline

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward pass at the baseline, one forward and one backward pass at ``x``."""
        baseline = _baseline_batch(torch.as_tensor(self.baseline, dtype=x.dtype, device=x.device), x)
        x = own_copy(x).requires_grad_()
        reference = DifferenceOperations(baseline)
        with torch.no_grad(), passing_through(self.model, self.layer, baseline) as before, reference:
            self.model(baseline)
        operations = DifferenceOperations(x, reference.seen)
        with passing_through(self.model, self.layer, x) as after, operations:
            logits = self.model(x)
        logits = operations.finished(logits)
        multiplier = score_gradient(target_scores(logits, target), after[-1])
        return ((after[-1].detach() - before[-1]) * multiplier).contiguous()


def _baseline_batch(baseline: Tensor, x: Tensor) -> Tensor:
    """One row where all samples share it, else one row each."""
    rows = x if baseline.ndim == x.ndim and len(baseline) > 1 else x[:1]
    return own_copy(expanded(baseline, rows))


Seen = tuple[str, tuple[Tensor, ...]]  # a non-linear operation's name, its inputs and results


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
            raise UnsupportedOperation("DeepLift needs the same operations at x and at the baseline; the model differs")
        found = self.reference[step - 1][1]
        for here, there in zip(values, found):
            if any(b not in (1, a) for a, b in zip(here.shape, there.shape)):
                shapes = f"{tuple(here.shape)} and {tuple(there.shape)}"
                raise UnsupportedOperation(
                    f"DeepLift cannot compare {self.seen[-1][0]} at x with the baseline, {shapes}: where a model "
                    "folds samples into another axis, give baseline one row per sample"
                )
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
        if kwargs.get("training", args[5] if len(args) > 5 else False):
            raise UnsupportedOperation("DeepLift has no rule for a batch norm without running statistics")
        return self._linear_in_one(func, args, kwargs)

    def _elementwise(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """The rescale rule, Δy/Δx; where Δx vanishes, the derivative: eq. 5.9."""
        x = self.only_input(func, args, kwargs)
        y, fixed = value_of(func, args, kwargs), x.detach()
        x0, y0 = self._counterpart(func, fixed, y)
        tolerance = torch.finfo(x.dtype).eps

        def shared(gradient: Tensor) -> tuple[Tensor]:
            dx = fixed - x0
            slope = (y - y0) / dx
            unmoved = dx.abs() <= tolerance
            if unmoved.any():
                leaf = fixed.detach().requires_grad_()
                with torch.enable_grad():
                    (derivative,) = torch.autograd.grad(func(leaf, *args[1:], **kwargs).sum(), leaf)
                slope = torch.where(unmoved, derivative, slope)
            return (gradient * slope,)

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
        dimensions, fixed = int(name[-2]), x.detach()
        x0, y0, places0 = self._counterpart(func, fixed, y, places)

        def shared(gradient: Tensor) -> tuple[Tensor]:
            place = torch.where(y >= y0, places, places0).flatten(-dimensions)
            dx = (fixed - x0).flatten(-dimensions)
            chosen = dx.gather(-1, place)
            slope = torch.where(chosen == 0, 1.0, (y - y0).flatten(-dimensions) / chosen)
            result = torch.zeros_like(dx).scatter_add_(-1, place, gradient.flatten(-dimensions) * slope)
            return (result.view(fixed.shape),)

        return Carry.apply(y, shared, x)

    def _multiply(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A product of two values: each has the other's mean as its multiplier, eq. 5.11."""
        if not all(map(self.follows, args[:2])):
            return self._linear_in_one(func, args, kwargs)
        a, b = args[:2]
        y = value_of(func, args, kwargs)
        a, b = a.detach(), b.detach()
        a0, b0 = self._counterpart(func, a, b)

        def shared(gradient: Tensor) -> tuple[Tensor, Tensor]:
            da, db = gradient * (b + b0) / 2, gradient * (a + a0) / 2
            return da.sum_to_size(a.shape), db.sum_to_size(b.shape)

        return Carry.apply(y, shared, *args[:2])

    handlers: ClassVar[dict[str, Handler]] = {
        **dict.fromkeys(("linear", "matmul", "addmm"), _linear_in_one),
        **dict.fromkeys(CONVOLUTIONS, _linear_in_one),
        "batch_norm": _batch_norm,
        **dict.fromkeys(MAX_POOLS, _max_pool),
        **dict.fromkeys(AVERAGES, _linear),
        **dict.fromkeys(("add", "sub", "rsub", "neg"), _linear),
        "mul": _multiply,
        "div": _linear_in_one,
        **dict.fromkeys(ELEMENTWISE, _elementwise),
        **dict.fromkeys(DROPOUTS, _dropout),
        **dict.fromkeys(REARRANGEMENTS, _linear),
    }
