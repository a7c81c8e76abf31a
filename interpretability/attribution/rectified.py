"""Guided backpropagation and the deconvolution network: ReLUs with another rule for the way back.

The forward pass is seen operation by operation, as for LRP and DeepLift. A ReLU is recognised by what it does to
numbers, not by its name. An operation that is not known to be free of ReLUs is refused.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from interpretability.attribution.base import Attribution
from interpretability.attribution.operations import Carry, Handler, Operations, UnsupportedOperation, place, value_of
from interpretability.attribution.torch_functions import (
    ACTIVATIONS,
    AVERAGES,
    COMPARISONS,
    DROPOUTS,
    EXTREMES,
    MAX_POOLS,
    REARRANGEMENTS,
    SMOOTH,
    SUMS_AND_PRODUCTS,
    operation_name,
    tensors_in,
)
from interpretability.gradients import score_gradient
from interpretability.layers import replace
from interpretability.targets import Target, target_scores

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]  # (da, z, a) -> dz, for a = max(z, 0)

ANYWHERE = torch.zeros(1)  # one place of an activation, on the CPU: what it becomes need not be waited for


def guided_rule(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """ReLU's backward on what comes from above cut off at zero: dz = 1[z > 0] · max(da, 0)   eq. 3.9."""
    return da.clamp(min=0) * ((z > 0) & (a == z))  # a ReLU6 is closed above 6 as well


def deconvolution_rule(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """Whether ReLU was open on the way up does not matter: dz = max(da, 0)   eq. 3.10."""
    return da.clamp(min=0)


class _RectifiedGradient(Attribution):
    """The gradient with ``rule`` at every ReLU between the point and the score."""

    additive = False
    rule: Rule

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward and one backward pass."""
        operations = RectifiedOperations(type(self).__name__, type(self).rule)
        if self.layer is None:
            leaf = x.clone().requires_grad_()
            operations.follow(leaf)
            with operations:
                logits = self.model(leaf)
        else:

            def cut(output: Tensor) -> Tensor:
                nonlocal leaf
                leaf = output.detach().clone().requires_grad_()
                operations.follow(leaf)
                return leaf.clone()

            with replace(self.model, self.layer, cut), operations:
                logits = self.model(x.clone())
        scores = target_scores(operations.finished(logits, len(x)), target)
        if not operations.relus and self.layer is None:
            raise ValueError(
                f"{type(self).__name__} needs a network with ReLUs; this one has none. For smooth activations take LRP"
                " or SmoothGrad, and LayerCAM in place of GuidedGradCAM"
            )
        return score_gradient(scores, leaf)


class GuidedBackprop(_RectifiedGradient):
    """The gradient that only lets positive influence pass, backwards, at open ReLUs   eq. 3.9.

    Springenberg et al. 2015, "Striving for simplicity", section 3.4. ReLU6 counts as a ReLU. Smooth activations
    pass the gradient as it is.

    Raises:
        ValueError: no ReLU between input and score, or an operation that may hide one.
    """

    rule = staticmethod(guided_rule)


class Deconvolution(_RectifiedGradient):
    """The gradient with ReLUs that rectify what comes back instead of what went up   eq. 3.10.

    Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 2.1. Raises as
    :class:`GuidedBackprop` does.
    """

    rule = staticmethod(deconvolution_rule)


class RectifiedOperations(Operations):
    """A forward pass whose ReLUs have ``rule`` for a backward pass; everything else is differentiated.

    Args:
        method: the attribution's name, for errors.
        rule: what a ReLU does on the way back.
    """

    def __init__(self, method: str, rule: Rule):
        super().__init__()
        self.method, self.rule = method, rule
        self.relus = 0

    def unsupported(self, operation: str) -> UnsupportedOperation:
        """The error for an operation that may be, or may hide, a ReLU."""
        return UnsupportedOperation(
            f"{self.method} cannot tell whether {operation}{place()} is a ReLU; write that as torch.relu or nn.ReLU"
        )

    def _differentiated(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """The gradient passes as it is, unless single values are kept or dropped by what the input is."""
        followed = [value for value in tensors_in((*args, *kwargs.values())) if self.follows(value)]
        depends_unseen = [value for value in followed if not value.requires_grad]
        if depends_unseen and len(depends_unseen) < len(followed):
            name = operation_name(func)
            raise UnsupportedOperation(
                f"the model masks its activations ({name}{place()}), which may be a ReLU; write that as torch.relu"
            )
        return func(*args, **kwargs)

    def _assignment(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        self._differentiated(lambda *_: None, args, kwargs)
        raise self.unsupported("an assignment to part of a tensor")

    def _constant(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """No gradient passes; where it meets the activations, :meth:`_differentiated` sees it."""
        return func(*args, **kwargs)

    def _activation(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A ReLU where the function cuts off at zero; else the derivative."""
        z, name = self.only_input(func, args, kwargs), operation_name(func)
        is_relu, cuts_below, cuts_above = _cut_off(func, args, kwargs)
        if cuts_above or (cuts_below and not is_relu):
            raise self.unsupported(f"{name}, which cuts off some values at zero,")
        if not is_relu or not z.requires_grad:
            return self._differentiated(func, args, kwargs)
        a, fixed, rule = value_of(func, args, kwargs), z.detach(), self.rule
        if a.shape != z.shape:
            raise self.unsupported(f"{name} that broadcasts its input")
        self.relus += 1
        return Carry.apply(a, lambda da: (rule(da, fixed, a),), z)

    def _extreme(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """The largest or smallest of several values, none of which may be zero throughout."""
        compared, name = tensors_in(args), operation_name(func)
        if len(compared) == 1:
            zero = _has_zero_slice(compared[0], kwargs.get("dim", args[1] if len(args) > 1 else None))
        else:
            zero = any(not value.any() if self.follows(value) else not value.all() for value in compared)
        if zero:
            raise UnsupportedOperation(
                f"the model compares with zero ({name}{place()}), which may be a ReLU; write that as torch.relu"
            )
        return self._differentiated(func, args, kwargs)

    handlers: ClassVar[dict[str, Handler]] = {
        **dict.fromkeys(
            (*SUMS_AND_PRODUCTS, *SMOOTH, *AVERAGES, *MAX_POOLS, *DROPOUTS, *REARRANGEMENTS), _differentiated
        ),
        **dict.fromkeys(ACTIVATIONS, _activation),
        **dict.fromkeys(EXTREMES, _extreme),
        **dict.fromkeys(COMPARISONS, _constant),
        "setitem": _assignment,
    }


def _cut_off(func: Callable, args: tuple, kwargs: dict) -> tuple[bool, bool, bool]:
    """Whether the elementwise ``func`` sets negative values to zero everywhere, somewhere; positive ones somewhere."""
    if tensors_in((*args[1:], *kwargs.values())):
        return _probed(args[0], func, args[1:], tuple(kwargs.items()))
    return _probed_once(ANYWHERE, func, args[1:], tuple(kwargs.items()))


def _probed(x: Tensor, func: Callable, more: tuple, keywords: tuple) -> tuple[bool, bool, bool]:
    def at(value: float) -> Tensor:
        return func(torch.full_like(x, value), *more, **dict(keywords))

    with torch.no_grad():
        below = (at(-2.0) == 0) & (at(-1.0) == 0) & (at(0.01) != 0)
        above = (at(2.0) == 0) & (at(1.0) == 0) & (at(-0.01) != 0)
    return bool(below.all()), bool(below.any()), bool(above.any())


_probed_once = functools.lru_cache(_probed)  # without other tensors the answer is always the same


def _has_zero_slice(x: Tensor, along: int | tuple[int, ...] | None) -> bool:
    """Whether one of the slices that a maximum ``along`` these axes (None: all) compares is zero throughout."""
    axes = range(x.ndim) if along is None else (along,) if isinstance(along, int) else along
    return any(not x.detach().movedim(axis, 0).flatten(1).any(dim=1).all() for axis in axes if x.shape[axis] > 1)
