"""How relevance goes through products, softmax and linear maps without weights of their own, as pure functions.

Glossary as in ``lrp_rules.py``: ``r`` the relevance of what the operation puts out, ``z`` what it puts out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from interpretability.attribution.lrp_rules import share
from interpretability.attribution.normalisations import Normalisation

SoftmaxRule = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # (r, x, p, dim) -> relevance of x


@dataclass(frozen=True)
class Mapped:
    """z = function(x, weight) + bias, linear in both; its transpose is found by autograd."""

    weight: Tensor
    bias: Tensor | None
    function: Callable[[Tensor, Tensor], Tensor]
    like: Tensor  # of the shape of x

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The contributions' sum, without the bias."""
        return self.function(x, weight)

    def transpose(self, s: Tensor, weight: Tensor) -> Tensor:
        """From the shape of z to the shape of x."""
        leaf = torch.zeros_like(self.like, requires_grad=True)
        with torch.enable_grad():
            (found,) = torch.autograd.grad(self.function(leaf, weight), leaf, s)
        return found


def normalising(norm: Normalisation, x: Tensor) -> Mapped:
    """A normalisation at ``x`` with its deviation σ held fixed: an affine map   eq. 5.15."""
    deviation = norm.inverse_deviation(norm.centre(norm.split(x)))
    weight = x.new_ones(1) if norm.weight is None else norm.weight

    def apply(values: Tensor, weight: Tensor) -> Tensor:
        return norm.merge(norm.centre(norm.split(values)) * deviation) * weight

    return Mapped(weight, norm.bias, apply, x)


def product_rule(r: Tensor, z: Tensor, bilinear: Callable[..., Tensor], a: Tensor, b: Tensor, epsilon: float) -> tuple:
    """Half to each factor of every product, by what the products contribute (AttnLRP, section 3.3)   eq. 5.17."""
    a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
    with torch.enable_grad():
        da, db = torch.autograd.grad(bilinear(a, b), (a, b), share(r, z, epsilon) / 2)
    return a.detach() * da, b.detach() * db


def gate_rule(r: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Half to each factor of an elementwise product, also where it is zero   eq. 5.16."""
    return (r / 2).sum_to_size(a.shape), (r / 2).sum_to_size(b.shape)


def taylor_rule(r: Tensor, x: Tensor, p: Tensor, dim: int) -> Tensor:
    """The softmax's first-order term at x, x · (r − p Σ r) (AttnLRP, section 3.3); it leaks, eq. 5.18, 5.19."""
    scaled = r - p * r.sum(dim, keepdim=True)
    return torch.where(p == 0, 0.0, x * scaled)  # x may be −∞ there


def kept_rule(r: Tensor, x: Tensor, p: Tensor, dim: int) -> Tensor:
    """Weights that are kept as they are only scale, so that none arrives here, except at a softmax head   eq. 5.2."""
    return r
