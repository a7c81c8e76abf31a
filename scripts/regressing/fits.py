"""The final networks: trained on all points with what was chosen, many seeds each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lit_models.network import network_forward
from regressing.experiment import Experiment, T, X, train
from regressing.selection import Outcome

GRID = torch.linspace(0, 1, 201)[:, None]  # where the fitted functions are drawn


@dataclass(frozen=True)
class Fit:
    """A variant's functions on `GRID` (G,), over seeds and over dropout masks."""

    curves: np.ndarray  # (R, G), one for each seed
    masked: np.ndarray | None  # (samples, G): Monte-Carlo dropout, all seeds together   eq. 2.18
    training_mse: float  # mean over seeds
    weight_norm: float  # √Σw² over the weights, mean over seeds


def fit_all(experiment: Experiment, outcomes: Sequence[Outcome], seeds: int, samples: int = 100) -> list[Fit]:
    """Train ``seeds`` networks of every variant in one batch, each stopped where its variant says."""
    history = train(
        experiment,
        [outcome.setting for outcome in outcomes],
        [()],
        seeds,
        stop_at=[outcome.updates for outcome in outcomes],
    )
    generator = torch.Generator().manual_seed(experiment.seed)
    fits = []
    for v, outcome in enumerate(outcomes):
        layers = [(w[0, v * seeds : (v + 1) * seeds], b[0, v * seeds : (v + 1) * seeds]) for w, b in history.layers]
        fits.append(describe(layers, experiment.activation, outcome.setting[1], samples, generator))
    return fits


def describe(
    layers: list[tuple[Tensor, Tensor]], activation: str, dropout: float, samples: int, generator: torch.Generator
) -> Fit:
    """The functions of one variant's networks (R, …)."""
    curves = network_forward(GRID, layers, activation)[0].squeeze(-1)
    masked = None
    if dropout:
        draws = [network_forward(GRID, layers, activation, dropout, generator)[0] for _ in range(samples)]
        masked = torch.cat(draws).squeeze(-1).numpy()
    error = network_forward(X, layers, activation)[0] - T
    squares = torch.stack([w.square().sum((-2, -1)) for w, _ in layers]).sum(0)
    return Fit(curves.numpy(), masked, float(error.square().mean()), float(squares.sqrt().mean()))
