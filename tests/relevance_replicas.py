"""Slow replicas of relevance propagation: dense matrices and loops, one contribution at a time."""

import torch
from torch import Tensor, nn


def as_matrix(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """An affine layer as z = m x + b on flattened samples of ``shape``: m (K, D) and b (K,)."""
    size = torch.Size(shape).numel()
    with torch.no_grad():
        b = layer(torch.zeros(1, *shape)).flatten()
        columns = layer(torch.eye(size).view(size, *shape)).flatten(1) - b
    return columns.T, b


def contributions(x: Tensor, m: Tensor, b: Tensor) -> Tensor:
    """The products m_kd x_d of one sample with the bias as the last column: (K, D + 1)."""
    return torch.cat([m * x, b[:, None]], dim=1)


def shares(rule: str, products: Tensor, *, epsilon: float, gamma: float, alpha: float, beta: float) -> Tensor:
    """What fraction of each output's relevance goes to each contribution: (K, D + 1)."""
    result = torch.zeros_like(products)
    for k, row in enumerate(products):
        positive, negative = row * (row > 0), row * (row < 0)
        if rule == "epsilon":
            result[k] = _fraction(row, epsilon)
        elif rule == "gamma":
            result[k] = _fraction(row + gamma * positive, epsilon)
        elif rule == "z_plus":
            result[k] = _fraction(positive, epsilon)
        elif rule == "alpha_beta":
            result[k] = alpha * _fraction(positive, epsilon) - beta * _fraction(negative, epsilon)
    return result


def _fraction(parts: Tensor, epsilon: float) -> Tensor:
    total = float(parts.sum())
    divisor = total + (epsilon if total >= 0 else -epsilon)
    return torch.zeros_like(parts) if divisor == 0 else parts / divisor


def redistribute(rule: str, x: Tensor, m: Tensor, b: Tensor, r: Tensor, **constants: float) -> Tensor:
    """The relevance of the inputs of a batch: x (N, D), r (N, K) -> (N, D)."""
    rows = []
    for sample, relevance in zip(x, r):
        fraction = shares(rule, contributions(sample, m, b), **constants)
        rows.append((fraction * relevance[:, None]).sum(dim=0)[:-1])
    return torch.stack(rows)
