"""The game of an image's four quarters, played out: Shapley values, surrogates and masks without the project's code."""

from functools import lru_cache
from itertools import combinations, permutations
from math import factorial

import torch
from torch import Tensor
from torch.nn import functional as F

from modelling.replicas import Case

PLAYERS = 4


def quarters(case: Case) -> Tensor:
    """Which quarter a pixel lies in: (1, H, W) of 0 … 3."""
    h, w = case.x.shape[2:]
    rows, columns = torch.arange(h) >= h // 2, torch.arange(w) >= w // 2
    return (2 * rows[:, None] + 1 * columns)[None]


def value(case: Case, players: tuple[int, ...]) -> Tensor:
    """The score (N,) of the image with only these quarters; there are sixteen, each is asked once."""
    return _value(case, tuple(sorted(players)))


@lru_cache(maxsize=2**PLAYERS)
def _value(case: Case, players: tuple[int, ...]) -> Tensor:
    there = torch.isin(quarters(case), torch.tensor(players, dtype=torch.long))
    with torch.no_grad():
        return case.score(case.x * there)


def spread(case: Case, worth: list[Tensor]) -> Tensor:
    """What each quarter is worth, evenly over its elements."""
    labels = quarters(case).expand(case.x.shape[1:])
    shares = [worth[player] / (labels == player).sum() for player in range(PLAYERS)]
    return torch.stack(shares)[labels][None, ..., 0]


def shapley(case: Case) -> Tensor:
    """Σ over coalitions of |S|! (P − |S| − 1)! / P! · (v(S with i) − v(S))."""
    worth = []
    for player in range(PLAYERS):
        others = [other for other in range(PLAYERS) if other != player]
        total = torch.zeros(len(case.x), dtype=case.x.dtype)
        for size in range(PLAYERS):
            share = factorial(size) * factorial(PLAYERS - size - 1) / factorial(PLAYERS)
            for some in combinations(others, size):
                total += share * (value(case, (*some, player)) - value(case, some))
        worth.append(total)
    return spread(case, worth)


def sampled_shapley(case: Case, orders: int) -> Tensor:
    """The mean of what a quarter adds in a few random orders."""
    generator = torch.Generator().manual_seed(0)
    drawn = [tuple(torch.randperm(PLAYERS, generator=generator).tolist()) for _ in range(orders)]
    assert set(drawn) <= set(permutations(range(PLAYERS)))
    worth = [torch.zeros(len(case.x), dtype=case.x.dtype) for _ in range(PLAYERS)]
    for order in drawn:
        for place, player in enumerate(order):
            worth[player] += (value(case, order[: place + 1]) - value(case, order[:place])) / orders
    return spread(case, worth)


def ablation(case: Case) -> Tensor:
    """What is lost without each quarter."""
    everybody = tuple(range(PLAYERS))
    without = [tuple(other for other in everybody if other != player) for player in everybody]
    return spread(case, [value(case, everybody) - value(case, some) for some in without])


def lime(case: Case, samples: int, kernel_width: float = 0.25, alpha: float = 1.0) -> Tensor:
    """Weighted ridge regression by its normal equations."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.rand(PLAYERS, generator=generator) < 0.5 for _ in range(samples - 1)]
    z = torch.stack([torch.ones(PLAYERS, dtype=torch.bool), *drawn]).double()
    y = torch.cat([value(case, tuple(row.nonzero().flatten().tolist())) for row in z])
    distance = 1 - z.sum(1) / (z.norm(dim=1) * PLAYERS**0.5).clamp(min=1e-30)  # of cosines to the whole image
    w = (-(distance**2) / (2 * kernel_width**2)).exp()
    z, y = z - (w @ z) / w.sum(), y - (w @ y) / w.sum()
    weights = torch.linalg.solve((z.T * w) @ z + alpha * torch.eye(PLAYERS).to(z), (z.T * w) @ y)
    return spread(case, list(weights[:, None]))


def rise(case: Case, samples: int, cells: int) -> Tensor:
    """Masks weighted by the score of what they show, over how much was shown."""
    generator, (height, width) = torch.Generator().manual_seed(0), case.x.shape[2:]
    total, seen = torch.zeros(height, width).double(), torch.zeros(height, width).double()
    h, w = -(-height // cells), -(-width // cells)
    for _ in range(samples):
        grid = torch.rand(1, 1, cells + 1, cells + 1, generator=generator, dtype=torch.float64) < 0.5
        large = F.interpolate(grid.double(), (h * (cells + 1), w * (cells + 1)), mode="bilinear")[0, 0]
        top = int(torch.randint(h, (), generator=generator))
        left = int(torch.randint(w, (), generator=generator))
        mask = large[top : top + height, left : left + width]
        with torch.no_grad():
            total += mask * case.score(case.x * mask)
        seen += mask
    return (total / seen)[None, None]
