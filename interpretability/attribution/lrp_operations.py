"""What LRP does in place of each operation of a forward pass.

Every operation gets a backward function that carries relevance where autograd would carry a gradient. So a
value that is used twice gathers the relevance of both uses, as in a residual network.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretability.attribution.affine_calls import read_batch_norm, read_convolution, read_linear
from interpretability.attribution.lrp_mixing import (
    Mapped,
    SoftmaxRule,
    gate_rule,
    kept_rule,
    normalising,
    product_rule,
)
from interpretability.attribution.lrp_rules import Affine, Convolution, Diagonal, Linear, Rule, share
from interpretability.attribution.normalisations import NORMALISATIONS, functional_order, running_statistics
from interpretability.attribution.operations import (
    Carry,
    Handler,
    Operations,
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
    CONVOLUTIONS,
    DROPOUTS,
    FUNCTIONS,
    MAX_POOLS,
    MIXTURES,
    REARRANGEMENTS,
    TRANSPOSED,
    operation_name,
    tensors_in,
)

STATISTICS = ("running_mean", "running_var", "weight", "bias")
DIVISORS = ("reciprocal", "rsqrt")  # whatever is multiplied with these is divided


class RelevanceOperations(Operations):
    """The forward pass of a model whose backward pass is relevance.

    Args:
        rules: for each kind of affine operation (linear, convolution, norm, average), its rule.
        softmax: the rule for softmax.
        epsilon: the stabiliser where values are summed without weights to learn.
        x: the input.
    """

    method = "LRP"

    def __init__(self, rules: dict[str, Rule], softmax: SoftmaxRule, epsilon: float, x: Tensor):
        super().__init__(x)
        self.rules, self.softmax, self.epsilon = rules, softmax, epsilon
        self._scales: dict[int, Tensor] = {}  # values that only scale what they are multiplied with
        self._affine: dict[int, tuple[str, Any, Tensor]] = {}  # id of z -> (kind, affine, x) that made it

    def _as_gradient(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Relevance goes where the values came from, which is what the gradient does: eq. 5.2."""
        return func(*args, **kwargs)

    def _dropout(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Off in eval mode."""
        check_dropout(func, args, kwargs)
        return func(*args, **kwargs)

    def _pass_on(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Each element of the output has all its relevance from one element of the input: eq. 5.2."""
        x = self.only_input(func, args, kwargs)
        shape = x.shape
        return Carry.apply(value_of(func, args, kwargs), lambda r: (r.sum_to_size(shape),), x)

    def _average(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A sum of elements with fixed weights: each its share, eq. 5.3."""
        x = self.only_input(func, args, kwargs)
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            z = func(leaf, *args[1:], **kwargs)
        epsilon = self.epsilon

        def shared(r: Tensor) -> tuple[Tensor]:
            (weighted,) = torch.autograd.grad(z, leaf, share(r, z.detach(), epsilon))
            return (leaf.detach() * weighted,)

        return Carry.apply(z.detach(), shared, x)

    def _add(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Two values share; a constant right behind an affine operation is its bias; any other is a shift."""
        if all(map(self.follows, args[:2])):
            return self._add_two(func, args, kwargs)
        before = self._affine.get(id(args[0]))
        if before is None or operation_name(func) != "add" or kwargs or not isinstance(args[1], Tensor):
            return self._pass_on(func, args, kwargs)
        (kind, affine, x), bias = before, args[1]
        channels = -1 if kind == "linear" else 1 - args[0].ndim  # the axis, from the last
        if bias.ndim < -channels or not bias.shape[channels] == bias.numel() == len(affine.weight):
            return self._pass_on(func, args, kwargs)
        bias = bias.flatten()
        return self._affine_operation(kind, affine.scaled(torch.ones_like(bias), bias), x, func, args, kwargs)

    def _add_two(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """The sum z = a ± αb, as where a residual connection ends: each its share, eq. 5.3."""
        factor = kwargs.get("alpha", 1) * (1 if operation_name(func) == "add" else -1)
        z, (a, b) = value_of(func, args, kwargs), (value.detach() for value in args[:2])
        epsilon = self.epsilon

        def shared(r: Tensor) -> tuple[Tensor, Tensor]:
            s = share(r, z, epsilon)
            return (a * s).sum_to_size(a.shape), (factor * b * s).sum_to_size(b.shape)

        return Carry.apply(z, shared, *args[:2])

    def _linear(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        if len(args) > 1 and self.follows(args[1]):
            return self._bilinear(func, args, kwargs)
        x = self.only_input(func, args, kwargs)
        return self._affine_operation("linear", read_linear(*args, **kwargs), x, func, args, kwargs)

    def _matmul(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        if self.follows(args[1]):
            return self._bilinear(func, args, kwargs)
        return self._affine_operation("linear", Linear(args[1].mT, None), args[0], func, args, kwargs)

    def _addmm(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        bias, x, weight = args
        if kwargs or self.follows(bias) or self.follows(weight):
            return taken_apart(self, func, args, kwargs)
        return self._affine_operation("linear", Linear(weight.mT, bias), x, func, args, kwargs)

    def _bilinear(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A sum of products of two values, one of which may be a constant."""
        args = operands(func, args)
        places = [i for i, value in enumerate(args) if isinstance(value, Tensor)][:2]
        followed = [i for i, value in enumerate(args) if self.follows(value)]
        if len(places) < 2 or not set(followed) <= set(places):
            raise self.unsupported(f"{operation_name(func)} of other than two values")
        factors = [args[i] for i in places]

        def product(a: Tensor, b: Tensor) -> Tensor:
            values = list(args)
            values[places[0]], values[places[1]] = a, b
            return func(*values, **kwargs)

        main = self._scaled(factors) if len(followed) == 2 else places.index(followed[0])
        if main is None:
            z, epsilon = value_of(func, args, kwargs), self.epsilon
            a, b = (factor.detach() for factor in factors)
            return Carry.apply(z, lambda r: product_rule(r, z, product, a, b, epsilon), *factors)
        if main == 0:
            affine = Mapped(factors[1].detach(), None, product, factors[0].detach())
        else:
            affine = Mapped(factors[0].detach(), None, lambda x, weight: product(weight, x), factors[1].detach())
        kind = "linear" if len(followed) == 1 else "average"
        return self._affine_operation(kind, affine, factors[main], func, args, kwargs)

    def _multiply(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Two values that depend on the input have a half each; a scale has nothing: eq. 5.16."""
        if not all(map(self.follows, args[:2])):
            return self._pass_on(func, args, kwargs)
        a, b = args[:2]
        main = self._scaled([a, b])
        z, shapes = value_of(func, args, kwargs), (a.shape, b.shape)
        if main is None:
            like = a.detach(), b.detach()
            return Carry.apply(z, lambda r: gate_rule(r, *like), a, b)
        return Carry.apply(z, lambda r: (r.sum_to_size(shapes[main]),), args[main])

    def _divide(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """What divides only scales: eq. 5.14."""
        if kwargs.get("rounding_mode"):
            raise self.unsupported("a division that rounds")
        if not self.follows(args[0]):
            shape = args[1].shape
            return Carry.apply(value_of(func, args, kwargs), lambda r: (r.sum_to_size(shape),), args[1])
        shape = args[0].shape
        return Carry.apply(value_of(func, args, kwargs), lambda r: (r.sum_to_size(shape),), args[0])

    def _softmax(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """By the composite's rule for softmax: eq. 5.18 or 5.2."""
        x, dim = self.only_input(func, args, kwargs), softmax_axis(func, args, kwargs)
        p, fixed, rule = value_of(func, args, kwargs), x.detach(), self.softmax
        return Carry.apply(p, lambda r: (rule(r.to(fixed.dtype), fixed, p.to(fixed.dtype), dim),), x)

    def _log_sum_exp(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """The logarithm of a sum: the sum's terms share, eq. 5.3."""
        x = self.only_input(func, args, kwargs)
        given = dict(zip(("input", "dim", "keepdim"), args)) | kwargs
        if not isinstance(given["dim"], int):
            raise self.unsupported("logsumexp over more than one axis")
        keepdim, weights = given.get("keepdim", False), x.detach().softmax(given["dim"])

        def shared(r: Tensor) -> tuple[Tensor]:
            return (weights * (r if keepdim else r.unsqueeze(given["dim"])),)

        return Carry.apply(value_of(func, args, kwargs), shared, x)

    def _normalise(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """An affine operation with its deviation held fixed: eq. 5.15."""
        x, name = self.only_input(func, args, kwargs), operation_name(func)
        if name == "instance_norm":
            args = functional_order(func, args)
            if running_statistics(args, kwargs):
                given = dict(zip(("input", *STATISTICS, "use_input_stats", "momentum", "eps"), args)) | kwargs
                options = {key: given[key] for key in (*STATISTICS, "eps") if key in given}
                return self._batch_norm(F.batch_norm, args[:1], options)
            func = F.instance_norm
        norm = NORMALISATIONS[name](*args, **kwargs)
        return self._affine_operation("norm", normalising(norm, x.detach()), x, func, args, kwargs)

    def _convolution(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        if len(args) > 1 and self.follows(args[1]):
            return self._bilinear(func, args, kwargs)
        x = self.only_input(func, args, kwargs)
        return self._affine_operation("convolution", read_convolution(*args, **kwargs), x, func, args, kwargs)

    def _transposed_convolution(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        x = self.only_input(func, args, kwargs)
        bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
        rest, options = args[3:], {key: value for key, value in kwargs.items() if key not in ("bias", "weight")}
        weight = kwargs["weight"] if "weight" in kwargs else args[1]
        bias = None if bias is None else bias.view(-1, *[1] * (weight.ndim - 2))
        affine = Mapped(weight, bias, lambda x, w: func(x, w, None, *rest, **options), x.detach())
        return self._affine_operation("convolution", affine, x, func, args, kwargs)

    def _batch_norm(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Merged into the affine operation right before it; else an affine operation of its own: eq. 5.7."""
        z = self.only_input(func, args, kwargs)
        scale, shift = read_batch_norm(*functional_order(func, args), **kwargs)
        before = self._affine.get(id(z))
        if before is not None and (before[0] == "convolution" or (before[0] == "linear" and z.ndim == 2)):
            kind, affine, x = before
            return self._affine_operation(kind, affine.scaled(scale, shift), x, func, args, kwargs)
        per_channel = (-1, *[1] * (z.ndim - 2))
        alone = Diagonal(scale.view(per_channel), shift.view(per_channel))
        return self._affine_operation("norm", alone, z, func, args, kwargs)

    def _affine_operation(
        self, kind: str, affine: Affine, x: Tensor, func: Callable, args: tuple, kwargs: dict
    ) -> Tensor:
        z = value_of(func, args, kwargs)
        rule, fixed = self.rules[kind], x.detach()
        result = Carry.apply(z, lambda r: (rule(affine, fixed, z, r),), x)
        if isinstance(affine, (Linear, Convolution)):
            self._affine[id(result)] = (kind, affine, x)
        return result

    def _scaled(self, factors: Sequence[Tensor]) -> int | None:
        """Which factor has all the relevance of a product, as the other is only its scale; None for both."""
        scales = [id(factor) in self._scales for factor in factors]
        return scales.index(False) if sorted(scales) == [False, True] else None

    def _note_scale(self, name: str, tensors: list[Tensor], result: Any) -> None:
        """Remember what only scales: reciprocals, kept weights of a softmax, and what is made of these alone."""
        followed = [tensor for tensor in tensors if self.follows(tensor)]
        made_here = name in DIVISORS or (name == "softmax" and self.softmax is kept_rule)
        if followed and (made_here or all(id(tensor) in self._scales for tensor in followed)):
            self._scales.update((id(tensor), tensor) for tensor in tensors_in([result]))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs)
        name = operation_name(func)
        if self._scales or name in DIVISORS or name == "softmax":
            self._note_scale(name, tensors_in((*args, *(kwargs or {}).values())), result)
        return result

    handlers: ClassVar[dict[str, Handler]] = {
        **dict.fromkeys(APART, taken_apart),
        "linear": _linear,
        "matmul": _matmul,
        "addmm": _addmm,
        **dict.fromkeys(("bmm", "einsum"), _bilinear),
        **dict.fromkeys(CONVOLUTIONS, _convolution),
        **dict.fromkeys(TRANSPOSED, _transposed_convolution),
        "batch_norm": _batch_norm,
        **dict.fromkeys(NORMALISATIONS, _normalise),
        "softmax": _softmax,
        "logsumexp": _log_sum_exp,
        **dict.fromkeys(MAX_POOLS, _as_gradient),
        **dict.fromkeys(("amax", "amin", "maximum", "minimum", "fmax", "fmin"), _as_gradient),
        **dict.fromkeys((*AVERAGES, *MIXTURES), _average),
        **dict.fromkeys(("add", "sub"), _add),
        **dict.fromkeys((*ACTIVATIONS, *FUNCTIONS), _pass_on),
        **dict.fromkeys(DROPOUTS, _dropout),
        **dict.fromkeys(("rsub", "neg"), _pass_on),
        "mul": _multiply,
        "div": _divide,
        **dict.fromkeys(REARRANGEMENTS, _as_gradient),
    }
