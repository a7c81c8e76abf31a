"""``explorer.html``: the networks of a grid of settings at many epochs, to be moved through with sliders.

All settings see the same initial weights and the same random numbers for their masks, so that a network of the page is
the one that trains alone with its setting and the same seed. The page evaluates the stored weights (float32) itself;
nothing is interpolated.
"""

import base64
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from callbacks.report import CHARTS
from datamodules.toy import TOY_T, TOY_X
from interpretability.page import render_page, write_page
from interpretability.page.encoding import pack
from lit_models.batched import make_networks, train_networks
from lit_models.network import network_forward
from regressing.experiment import SINGLES, SIZES, Experiment, T, X, shares
from regressing.selection import Outcome

HERE = Path(__file__).parent
FOLDS = [(), *SINGLES]  # nothing held out, then each of the points
HIDDEN = (3, SIZES[1], 30)
MOST_DECAYS, MOST_DROPOUTS, MOST_FRAMES = 4, 3, 11
PLACES = torch.linspace(0, 1, 26)[:, None]  # where the spread over seeds is kept


@dataclass(frozen=True)
class Grid:
    """What the sliders offer."""

    activations: tuple[str, ...]
    hidden: tuple[int, ...]
    weight_decays: tuple[float, ...]
    dropouts: tuple[float, ...]
    updates: tuple[int, ...]  # those whose networks are kept


@dataclass
class Trained:
    """The networks of one activation, size and p: F folds, C values of λ, E records, U kept updates."""

    errors: Tensor  # (E, 2, F, C): of the points seen and of the one held out (NaN where none is), mean over seeds
    weights: list[Tensor] = field(default_factory=list)  # U × (F, C, 3H + 1), of the first seed: w₁, b₁, w₂, b₂
    spread: list[Tensor] = field(default_factory=list)  # U × (F, C, 2, P): least and largest over seeds


def some(values: Sequence[float], wanted: Sequence[float], most: int) -> tuple[float, ...]:
    """``wanted`` and, spread over the others, as many of ``values`` as there is room for."""
    kept = sorted(set(wanted))
    rest = [value for value in values if value not in kept]
    room = min(most - len(kept), len(rest))
    if room > 0:
        kept += [rest[round(place)] for place in torch.linspace(0, len(rest) - 1, room).tolist()]
    return tuple(sorted(set(kept)))


def grid_of(plan: Experiment, outcomes: Sequence[Outcome]) -> Grid:
    """All that was chosen, and some of what was not."""
    decays, dropouts = zip(*(outcome.setting for outcome in outcomes))
    chosen = [0, plan.updates, *(outcome.updates for outcome in outcomes)]
    early = [n for n in (20, 60, 100, 160, 240, 400, 600, 1000, 1400) if n in plan.records]
    return Grid(
        activations=(plan.activation, "relu" if plan.activation != "relu" else "tanh"),
        hidden=HIDDEN,
        weight_decays=some(plan.weight_decays, (0.0, *decays), MOST_DECAYS),
        dropouts=some(plan.dropouts, (0.0, *dropouts), MOST_DROPOUTS),
        updates=tuple(int(n) for n in some(early, chosen, MOST_FRAMES)),
    )


def train(
    plan: Experiment, grid: Grid, activation: str, hidden: int, p: float, progress: Callable[[int], object] | None
) -> Trained:
    """Every fold, λ and seed of one activation, size and p."""
    generator = torch.Generator().manual_seed(plan.seed)
    start = make_networks((1, hidden, 1), plan.seeds, generator)
    count = len(grid.weight_decays)
    lead = (len(FOLDS), count * plan.seeds)
    layers = [(w.repeat(lead[0], count, 1, 1), b.repeat(lead[0], count, 1)) for w, b in start]
    decays = torch.tensor(grid.weight_decays).repeat_interleave(plan.seeds)[None, :, None, None]
    trained = Trained(torch.empty(0))

    def keep(update: int, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        if update not in grid.updates:
            return
        (w1, b1), (w2, b2) = layers
        flat = torch.cat([w1.flatten(2), b1, w2.flatten(2), b2], 2).unflatten(1, (count, plan.seeds))
        trained.weights.append(flat[:, :, 0].clone())
        curves = network_forward(PLACES, layers, activation)[0][..., 0].unflatten(1, (count, plan.seeds))
        trained.spread.append(torch.stack([curves.amin(2), curves.amax(2)], 2))

    history = train_networks(
        X,
        T,
        layers,
        activation=activation,
        updates=plan.updates,
        learning_rate=plan.learning_rate,
        share=shares(FOLDS),
        weight_decay=decays,
        dropout=torch.full((1, 1, 1, 1), p) if p else 0.0,  # size 1: all share their masks
        record_every=plan.record_every,
        generator=torch.Generator().manual_seed(plan.seed),
        progress=progress,
        observe=keep,
    )
    squares = history.errors.squeeze(-1).square().unflatten(2, (count, plan.seeds)).mean(3)  # (E, F, C, N)
    seen = (shares(FOLDS).squeeze(-1) * squares).sum(-1)
    left_out = squares[:, 1:].diagonal(dim1=1, dim2=3).transpose(1, 2)  # (E, N, C): point i of fold i
    held_out = torch.cat([left_out.mean(1, keepdim=True), left_out], 1)  # nothing held out: leave-one-out
    trained.errors = torch.stack([seen, held_out], 1)
    return trained


def train_grid(plan: Experiment, grid: Grid, progress: Callable[[int], object] | None = None) -> list[Trained]:
    """`train` for every activation, size and p, p varying fastest; one on each core at a time."""
    cells = list(itertools.product(grid.activations, grid.hidden, grid.dropouts))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda cell: train(plan, grid, *cell, progress), cells))
    finally:
        torch.set_num_threads(threads)


def total_progress(plan: Experiment, outcomes: Sequence[Outcome]) -> int:
    """How many updates `write` reports to its ``progress``."""
    grid = grid_of(plan, outcomes)
    return plan.updates * len(grid.activations) * len(grid.hidden) * len(grid.dropouts)


def exact(values: Tensor) -> dict[str, object]:
    """An array for the page as float32, without loss."""
    return {"shape": list(values.shape), "data": base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()}


def preset(outcome: Outcome, grid: Grid, row: dict[str, object]) -> dict[str, object]:
    """Where the sliders stand for a variant, and its row of the table."""
    decay, p = outcome.setting
    return {
        "name": outcome.variant.name,
        "decay": grid.weight_decays.index(decay),
        "dropout": grid.dropouts.index(p),
        "frame": grid.updates.index(outcome.updates),
        "row": {key: str(value) for key, value in row.items()},
    }


def write(
    path: Path,
    plan: Experiment,
    outcomes: Sequence[Outcome],
    rows: Sequence[dict[str, object]],
    progress: Callable[[int], object] | None = None,
) -> None:
    """Train the grid and write the page."""
    grid = grid_of(plan, outcomes)
    data = {
        "x": list(TOY_X),
        "t": list(TOY_T),
        "activations": grid.activations,
        "hidden": grid.hidden,
        "decays": grid.weight_decays,
        "dropouts": grid.dropouts,
        "updates": grid.updates,
        "records": plan.records,
        "seeds": plan.seeds,
        "presets": [preset(outcome, grid, row) for outcome, row in zip(outcomes, rows)],
        "cells": [
            {
                "weights": exact(torch.stack(cell.weights)),
                "spread": pack(torch.stack(cell.spread)),
                "errors": exact(cell.errors),
            }
            for cell in train_grid(plan, grid, progress)
        ],
    }
    scripts = [CHARTS, HERE / "explorer.js"]
    write_page(render_page(HERE / "explorer.html", data, scripts, [HERE / "explorer.css"]), path)
