"""What LRP does in place of each operation of a forward pass.

Every operation gets a backward function that carries relevance where autograd would carry a gradient. So a
value that is used twice gathers the relevance of both uses, as in a residual network.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from interpretability.attribution.lrp_rules import Affine, Convolution, Diagonal, Linear, Rule, share
from interpretability.attribution.operations import (
    Carry,
    Handler,
    Operations,
    UnsupportedOperation,
    check_dropout,
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


class RelevanceOperations(Operations):
    """The forward pass of a model whose backward pass is relevance.

    Args:
        rules: for each kind of affine operation (linear, convolution, norm), its rule.
        epsilon: the stabiliser where values are summed without weights to learn.
        x: the input.
    """

    method = "LRP"

    def __init__(self, rules: dict[str, Rule], epsilon: float, x: Tensor):
        super().__init__(x)
        self.rules, self.epsilon = rules, epsilon
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
        value = value_of(func, args, kwargs)
        if value.shape != x.shape:
            raise self.unsupported(f"{operation_name(func)} that broadcasts its input")
        return Carry.apply(value, lambda r: (r,), x)

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
        x = self.only_input(func, args, kwargs)
        return self._affine_operation("linear", _read_linear(*args, **kwargs), x, func, args, kwargs)

    def _matmul(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        x = self.only_input(func, args, kwargs)
        return self._affine_operation("linear", Linear(args[1].mT, None), x, func, args, kwargs)

    def _addmm(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        bias, x, weight = args
        if kwargs or self.follows(bias) or self.follows(weight):
            raise self.unsupported("addmm other than bias + x @ weight")
        return self._affine_operation("linear", Linear(weight.mT, bias), x, func, args, kwargs)

    def _convolution(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        x = self.only_input(func, args, kwargs)
        return self._affine_operation("convolution", _read_convolution(*args, **kwargs), x, func, args, kwargs)

    def _batch_norm(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Merged into the affine operation right before it; else an affine operation of its own: eq. 5.7."""
        z = self.only_input(func, args, kwargs)
        scale, shift = _read_batch_norm(*args, **kwargs)
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
        self._affine[id(result)] = (kind, affine, x)
        return result

    handlers: ClassVar[dict[str, Handler]] = {
        "linear": _linear,
        "matmul": _matmul,
        "addmm": _addmm,
        **dict.fromkeys(CONVOLUTIONS, _convolution),
        "batch_norm": _batch_norm,
        **dict.fromkeys(MAX_POOLS, _as_gradient),
        **dict.fromkeys(AVERAGES, _average),
        **dict.fromkeys(("add", "sub"), _add),
        **dict.fromkeys(ACTIVATIONS, _pass_on),
        **dict.fromkeys(DROPOUTS, _dropout),
        **dict.fromkeys(("rsub", "neg", "mul", "div"), _pass_on),
        **dict.fromkeys(REARRANGEMENTS, _as_gradient),
    }


def _read_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Linear:
    return Linear(weight, bias)


def _read_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Convolution:
    dimensions = weight.ndim - 2
    stride, dilation = _per_axis(stride, dimensions), _per_axis(dilation, dimensions)
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:])]
        if any(size % 2 for size in total):
            raise UnsupportedOperation("LRP has no rule for a convolution with padding='same' and an even kernel")
        padding = [size // 2 for size in total]
    bias = None if bias is None else bias.view(-1, *[1] * dimensions)
    return Convolution(weight, bias, input.shape, stride, _per_axis(padding, dimensions), dilation, groups)


def _per_axis(value: int | Sequence[int], dimensions: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dimensions if len(values) == 1 else values


def _read_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel, eq. 5.7."""
    if training or running_mean is None or running_var is None:
        raise UnsupportedOperation("LRP has no rule for a batch norm without running statistics: it mixes samples")
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale
    return scale, shift if bias is None else shift + bias
