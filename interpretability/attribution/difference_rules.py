"""The multipliers of operations on more than one value at a time, as pure functions: what DeepLift calls Δz / Δx.

Glossary: ``m`` the multiplier of the output, ``x`` and ``x0`` the input here and at the baseline; what comes back is
the multiplier of the input. Each keeps the sum Σ m Δz, eq. 5.8.
"""

import torch
from torch import Tensor

from interpretability.attribution.normalisations import Normalisation


def log_mean(a: Tensor, b: Tensor) -> Tensor:
    """Log ((eᵃ − eᵇ) / (a − b)): the slope of exp between two places, which lies between eᵃ and eᵇ   eq. 5.20."""
    distance = (a - b).abs().nan_to_num(nan=0.0, posinf=torch.inf)  # −∞ − (−∞), of masked scores, is no change
    ratio = torch.where(distance == 0, 1.0, -torch.expm1(-distance) / distance)
    return torch.maximum(a, b) + ratio.log()


def log_sum_exp_slopes(x: Tensor, x0: Tensor, dim: int) -> Tensor:
    """Δ log Σ exp x = Σ slope · Δx, as exp, sum and log taken one after the other give it   eq. 5.20."""
    total, total0 = (value.logsumexp(dim, keepdim=True) for value in (x, x0))
    return (log_mean(x, x0) - log_mean(total, total0)).exp()


def softmax_rule(m: Tensor, x: Tensor, x0: Tensor, dim: int) -> Tensor:
    """Exp of x − log Σ exp x: sums and functions of single elements, each with its slope   eq. 5.21."""
    scaled = m * log_mean(x.log_softmax(dim), x0.log_softmax(dim)).exp()
    return scaled - log_sum_exp_slopes(x, x0, dim) * scaled.sum(dim, keepdim=True)


def quotient_rule(m: Tensor, a: Tensor, b: Tensor, a0: Tensor, b0: Tensor) -> tuple[Tensor, Tensor]:
    """Of y = a / b, as a = y · b is a product   eq. 5.22. Where b changes its sign it is a · (1 / b)."""
    y, total, regular = a / b + a0 / b0, b + b0, b * b0 > 0
    of_a = torch.where(regular, 2 / total, (1 / b + 1 / b0) / 2)
    of_b = torch.where(regular, -y / total, -(a + a0) / (2 * b * b0))
    return m * of_a, m * of_b


def normalisation_rule(m: Tensor, x: Tensor, x0: Tensor, norm: Normalisation) -> Tensor:
    """Centred values over σ: a quotient, whose divisor is the root of a mean of squares   eq. 5.23."""
    m = norm.split(norm.weighted(m))
    c, c0 = (norm.centre(norm.split(value)) for value in (x, x0))
    s, s0 = norm.inverse_deviation(c), norm.inverse_deviation(c0)
    inverse = 2 / (1 / s + 1 / s0)  # of the mean deviation
    of_deviation = (m * (c * s + c0 * s0) / 2).sum(norm.axes, keepdim=True) * inverse.square()
    count = c[0].numel() // s[0].numel()
    return norm.merge(norm.centre(m * inverse - of_deviation * (c + c0) / (2 * count)))


def max_pool_rule(m: Tensor, x: Tensor, x0: Tensor, y: Tensor, y0: Tensor, place: Tensor) -> Tensor:
    """All of Δy goes to ``place``, that of the larger maximum; flat (…, places)   eq. 5.10."""
    dx = x - x0
    chosen = dx.gather(-1, place)
    slope = torch.where(chosen == 0, 1.0, (y - y0) / chosen)
    return torch.zeros_like(dx).scatter_add_(-1, place, m * slope)
