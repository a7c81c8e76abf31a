"""ROAD, remove and debias: pixels are removed by filling them in from around, so that no hole tells its shape."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpretability.evaluation.measures import probabilities
from interpretability.layers import evaluating
from interpretability.targets import Target

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
NOISE = 0.01
TOLERANCE = 1e-3  # of the solution; the noise is larger
MOST_STEPS = 300


def road(model: nn.Module, x: Tensor, target: Target, order: Tensor, seed: int = 0) -> Tensor:
    """How much further the probability falls by removing what matters most than what matters least: (N,)   eq. 6.9.

    Rong et al. 2022, "A consistent and efficient evaluation strategy for attribution methods", section 4; the two
    orders combined, over the fractions ``FRACTIONS``.

    Args:
        model: takes ``x``, returns logits.
        x: (N, C, H, W).
        target: other than None.
        order: the place of each pixel (N, H·W), see :func:`~interpretability.evaluation.measures.ranks`.
        seed: of the small noise on what is filled in.
    """
    pixels, total = order.shape[1], x.new_zeros(len(x))
    with evaluating(model), torch.no_grad():
        for fraction in FRACTIONS:
            count = round(fraction * pixels)
            most, least = (
                probabilities(model, imputed(x, removed.view(len(x), *x.shape[2:]), seed), target)
                for removed in (order < count, order >= pixels - count)
            )
            total += (least - most) / 2
    return total / len(FRACTIONS)


def imputed(x: Tensor, removed: Tensor, seed: int = 0, noise: float = NOISE) -> Tensor:
    """Images with each pixel of ``removed`` (N, H, W) the weighted mean of its eight neighbours   eq. 6.10.

    Solved by conjugate gradients for all pixels at once; ``noise`` is the standard deviation of what is added there.
    """
    missing = removed[:, None].to(x)
    known = 1 - missing
    degree = _around(torch.ones_like(x[:1, :1]))
    right = missing * _around(known * x)
    counts = known.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    u = missing * ((known * x).sum(dim=(2, 3), keepdim=True) / counts)
    rest = right - missing * (degree * u - _around(u))
    direction, size = rest.clone(), _dot(rest, rest)
    enough = TOLERANCE**2 * _dot(right, right)
    for _ in range(MOST_STEPS):
        if (size <= enough).all():
            break
        applied = missing * (degree * direction - _around(direction))
        curvature = _dot(direction, applied)
        step = torch.where(curvature > 0, size / torch.where(curvature > 0, curvature, 1), 0)
        u, rest = u + step * direction, rest - step * applied
        before, size = size, _dot(rest, rest)
        direction = rest + torch.where(before > 0, size / torch.where(before > 0, before, 1), 0) * direction
    drawn = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x)
    return known * x + missing * (u + noise * drawn)


def _around(values: Tensor) -> Tensor:
    """The weighted sum over the eight neighbours, 1/6 beside and 1/12 across a corner; none beyond the border."""
    kernel = values.new_tensor([[1, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12
    return F.conv2d(values.flatten(0, 1)[:, None], kernel[None, None], padding=1).view_as(values)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(2, 3), keepdim=True)
