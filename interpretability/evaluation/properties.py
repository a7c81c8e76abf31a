"""What a map is like: where it points, how few pixels it takes, and how alike methods are."""

from collections.abc import Mapping

import torch
from torch import Tensor

from interpretability.evaluation.measures import rank_correlation

REACHED = 0.9  # of the whole image's probability


def pointing(maps: Tensor, mask: Tensor) -> Tensor:
    """1 where the largest value of a map (N, H, W) lies in ``mask`` (N, H, W), else 0: (N,)   eq. 6.11.

    Zhang et al. 2018, "Top-down neural attention by excitation backprop", section 4.2.
    """
    best = maps.flatten(1).argmax(dim=1, keepdim=True)
    return mask.flatten(1).gather(1, best)[:, 0].to(maps)


def energy(maps: Tensor, mask: Tensor) -> Tensor:
    """The share of a map's positive values that lies in ``mask``, 0 where it has none: (N,)   eq. 6.12.

    Wang et al. 2020, "Score-CAM", section 4.3.
    """
    positive = maps.clamp(min=0).flatten(1)
    total = positive.sum(dim=1)
    return (positive * mask.flatten(1)).sum(dim=1) / torch.where(total > 0, total, 1)


def sparseness(maps: Tensor) -> Tensor:
    """The Gini coefficient of the values' sizes: (N, …) -> (N,), 0 all alike, near 1 all in one   eq. 6.13.

    Chalasani et al. 2020, "Concise explanations of neural networks using adversarial training", section 5.
    """
    sizes = maps.flatten(1).abs().double().sort(dim=1).values
    n, total = sizes.shape[1], sizes.sum(dim=1)
    places = 2 * torch.arange(1, n + 1, device=maps.device) - n - 1
    return ((sizes * places).sum(dim=1) / (n * torch.where(total > 0, total, 1))).to(maps)


def effective_complexity(insertion: Tensor) -> Tensor:
    """The least share of pixels, most important first, that gives 0.9 of the probability: (N, steps + 1) -> (N,).

    Nguyen and Martínez 2020, "On quantitative aspects of model interpretability", section 3.3   eq. 6.14.
    """
    enough = insertion >= REACHED * insertion[:, -1:]
    return enough.to(insertion).argmax(dim=1).to(insertion) / (insertion.shape[1] - 1)


def agreement(maps: Mapping[str, Tensor]) -> Tensor:
    """The mean rank correlation of every two methods' maps (N, H, W): (M, M)   eq. 6.7."""
    values = list(maps.values())
    return torch.stack([torch.stack([rank_correlation(a, b).mean() for b in values]) for a in values])
