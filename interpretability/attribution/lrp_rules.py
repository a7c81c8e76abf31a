"""How an affine operation shares out its relevance: the ε, γ, z⁺ and αβ rules as pure functions.

Glossary: ``x`` the input, ``w`` and ``b`` weights and bias, ``z = w·x + b`` the output, ``r`` the relevance of
``z``; what comes back is the relevance of ``x``. A contribution is one product w·x; its positive part is
x⁺·w⁺ + x⁻·w⁻ with x⁺ = max(x, 0) and x⁻ = min(x, 0), so the rules hold for inputs of either sign.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor


class Affine(Protocol):
    """z = apply(x, weight) + bias, and the transpose of ``apply`` in its first argument."""

    @property
    def weight(self) -> Tensor:
        """The weights w."""

    @property
    def bias(self) -> Tensor | None:
        """The bias b, shaped so that it adds to z."""

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The contributions' sum w·x, without the bias."""

    def transpose(self, s: Tensor, weight: Tensor) -> Tensor:
        """wᵀ·s: from the shape of z to the shape of x."""


@dataclass(frozen=True)
class Linear:
    """z = x·wᵀ + b over the last axis: weight (K, D), bias (K,) or None."""

    weight: Tensor
    bias: Tensor | None

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """(…, D) -> (…, K)."""
        return x @ weight.mT

    def transpose(self, s: Tensor, weight: Tensor) -> Tensor:
        """(…, K) -> (…, D)."""
        return s @ weight

    def scaled(self, scale: Tensor, shift: Tensor) -> "Linear":
        """The map x ↦ scale·z + shift, per output (K,): what a batch norm right behind makes of this one."""
        bias = shift if self.bias is None else scale * self.bias + shift
        return replace(self, weight=scale[:, None] * self.weight, bias=bias)


@dataclass(frozen=True)
class Convolution:
    """A convolution in one to three dimensions: weight (K, C/groups, …), bias (K, 1, …) or None."""

    weight: Tensor
    bias: Tensor | None
    input_shape: torch.Size
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def _geometry(self) -> tuple:
        return self.stride, self.padding, self.dilation, False, [0] * len(self.stride), self.groups

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, C, …) -> (N, K, …)."""
        return torch.convolution(x, weight, None, *self._geometry())

    def transpose(self, s: Tensor, weight: Tensor) -> Tensor:
        """(N, K, …) -> (N, C, …)."""
        shape_only = s.new_empty(1).expand(self.input_shape)
        gradient_of = [True, False, False]  # the input; not the weight, not the bias
        return torch.ops.aten.convolution_backward(s, shape_only, weight, None, *self._geometry(), gradient_of)[0]

    def scaled(self, scale: Tensor, shift: Tensor) -> "Convolution":
        """The map x ↦ scale·z + shift, per channel (K,): what a batch norm right behind makes of this one."""
        per_channel = (-1, *[1] * len(self.stride))
        scale, shift = scale.view(per_channel), shift.view(per_channel)
        bias = shift if self.bias is None else scale * self.bias + shift
        return replace(self, weight=scale[:, None] * self.weight, bias=bias)


@dataclass(frozen=True)
class Diagonal:
    """z = w·x + b per channel: a batch norm that stands alone; weight and bias (K, 1, …)."""

    weight: Tensor
    bias: Tensor | None

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, K, …) -> (N, K, …)."""
        return x * weight

    def transpose(self, s: Tensor, weight: Tensor) -> Tensor:
        """(N, K, …) -> (N, K, …)."""
        return s * weight


Rule = Callable[[Affine, Tensor, Tensor, Tensor], Tensor]  # (affine, x, z, r) -> relevance of x


def share(r: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """The relevance a unit of contribution gets, r / (z + ε·sign z) with sign 0 = 1; 0 where that divides by 0.

    eq. 5.3.
    """
    if epsilon > 0:
        return r / (z + torch.copysign(z.new_tensor(epsilon), z))
    return r / z.masked_fill(z == 0, torch.inf)


def epsilon_rule(affine: Affine, x: Tensor, z: Tensor, r: Tensor, *, epsilon: float) -> Tensor:
    """Every contribution its share of z; what ε and the bias take is lost. Bach et al. (2015), eq. 58; eq. 5.3."""
    return x * affine.transpose(share(r, z, epsilon), affine.weight)


def gamma_rule(affine: Affine, x: Tensor, z: Tensor, r: Tensor, *, gamma: float, epsilon: float) -> Tensor:
    """Positive contributions, the bias's too, count 1 + γ times. Montavon et al. (2019), section 10.2; eq. 5.4."""
    w, b = affine.weight, affine.bias
    parts = _parts(x, lambda: w + gamma * w.clamp(min=0), lambda: w + gamma * w.clamp(max=0))
    total = _total(affine, parts, None if b is None else b + gamma * b.clamp(min=0))
    return _relevance(affine, parts, share(r, total, epsilon))


def z_plus_rule(affine: Affine, x: Tensor, z: Tensor, r: Tensor, *, epsilon: float) -> Tensor:
    """Only positive contributions count. Montavon et al. (2017), eq. 13; eq. 5.5."""
    w, b = affine.weight, affine.bias
    parts = _parts(x, lambda: w.clamp(min=0), lambda: w.clamp(max=0))
    total = _total(affine, parts, None if b is None else b.clamp(min=0))
    return _relevance(affine, parts, share(r, total, epsilon))


def alpha_beta_rule(
    affine: Affine, x: Tensor, z: Tensor, r: Tensor, *, alpha: float, beta: float, epsilon: float
) -> Tensor:
    """α of the positive shares less β of the negative ones. Bach et al. (2015), eq. 60; eq. 5.6."""
    w, b = affine.weight, affine.bias
    positive = z_plus_rule(affine, x, z, r, epsilon=epsilon)
    if beta == 0:
        return alpha * positive
    parts = _parts(x, lambda: w.clamp(max=0), lambda: w.clamp(min=0))
    total = _total(affine, parts, None if b is None else b.clamp(max=0))
    return alpha * positive - beta * _relevance(affine, parts, share(r, total, epsilon))


def identity_rule(affine: Affine, x: Tensor, z: Tensor, r: Tensor) -> Tensor:
    """For maps of each element by itself: all of z's relevance is that of its only input. eq. 5.2."""
    return r


Parts = list[tuple[Tensor, Tensor]]  # a part of x and the weights that it meets


def _parts(x: Tensor, weight: Callable[[], Tensor], weight_of_negative: Callable[[], Tensor]) -> Parts:
    """x⁺ with its weights and x⁻ with its own: the sign of a product turns with the sign of x."""
    if bool((x >= 0).all()):  # as behind a ReLU: half the work
        return [(x, weight())]
    return [(x.clamp(min=0), weight()), (x.clamp(max=0), weight_of_negative())]


def _total(affine: Affine, parts: Parts, bias: Tensor | None) -> Tensor:
    """The sum of the contributions that count, the bias's included."""
    totals = [affine.apply(part, weight) for part, weight in parts] + ([] if bias is None else [bias])
    return reduce(torch.add, totals)


def _relevance(affine: Affine, parts: Parts, s: Tensor) -> Tensor:
    """Σ over the outputs of contribution × s."""
    return reduce(torch.add, [part * affine.transpose(s, weight) for part, weight in parts])
