"""The multipliers of operations on more than one value at a time, as pure functions: what DeepLift calls Δz / Δx.

Glossary: ``m`` the multiplier of the output, ``x`` and ``x0`` the input here and at the baseline; what comes back is
the multiplier of the input. Each keeps the sum Σ m Δz, eq. 5.8.
"""

import torch
from torch import Tensor

from interpretability.attribution.normalisations import Normalisation


def log_mean(a: Tensor, b: Tensor) -> Tensor:
    """log ((eᵃ − eᵇ) / (a − b)): the slope of exp between two places, which lies between eᵃ and eᵇ   eq. 5.20."""
    distance = (a - b).abs().nan_to_num(nan=0.0, posinf=torch.inf)  # −∞ − (−∞), of masked scores, is no change
    ratio = torch.where(distance == 0, 1.0, -torch.expm1(-distance) / distance)
    return torch.maximum(a, b) + ratio.log()


def log_sum_exp_slopes(x: Tensor, x0: Tensor, dim: int) -> Tensor:
    """Δ log Σ exp x = Σ slope · Δx, as exp, sum and log taken one after the other give it   eq. 5.20."""
    total, total0 = (value.logsumexp(dim, keepdim=True) for value in (x, x0))
    return (log_mean(x, x0) - log_mean(total, total0)).exp()


def softmax_rule(m: Tensor, x: Tensor, x0: Tensor, dim: int) -> Tensor:
    """exp of x − log Σ exp x: sums and functions of single elements, each with its slope   eq. 5.21."""
    scaled = m * log_mean(x.log_softmax(dim), x0.log_softmax(dim)).exp()
    return scaled - log_sum_exp_slopes(x, x0, dim) * scaled.sum(dim, keepdim=True)


def normalisation_rule(m: Tensor, x: Tensor, x0: Tensor, norm: Normalisation) -> Tensor:
    """Centred values times 1/σ: a product, whose second factor is a function of a mean of squares   eq. 5.22, 5.23."""
    m = norm.split(norm.weighted(m))
    c, c0 = (norm.centre(norm.split(value)) for value in (x, x0))
    s, s0 = norm.inverse_deviation(c), norm.inverse_deviation(c0)
    middle, slope = (c + c0) / 2, -(s * s0).square() / (s + s0)  # of s over the variance
    of_variance = (m * middle).sum(norm.axes, keepdim=True) * slope
    count = c[0].numel() // s[0].numel()
    dc = m * (s + s0) / 2 + of_variance * 2 * middle / count
    return norm.merge(norm.centre(dc))


def max_pool_rule(m: Tensor, x: Tensor, x0: Tensor, y: Tensor, y0: Tensor, place: Tensor) -> Tensor:
    """All of Δy goes to ``place``, that of the larger maximum; flat (…, places)   eq. 5.10."""
    dx = x - x0
    chosen = dx.gather(-1, place)
    slope = torch.where(chosen == 0, 1.0, (y - y0) / chosen)
    return torch.zeros_like(dx).scatter_add_(-1, place, m * slope)
