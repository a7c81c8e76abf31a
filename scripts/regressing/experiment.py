"""Training every fold, setting and seed of the eleven points as batched networks.

Three numbers of points left out serve three ends: none for the fit that is drawn, one (i) for the error that is
reported, two (i and j) for the choices behind that error, which may not have seen point i.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.toy import TOY_T, TOY_X
from lit_models.batched import History, make_networks, train_networks

SIZES = (1, 10, 1)  # the course sheet's network: ten hidden units, linear output
SHARED_BLOCK = 1000  # networks trained together: as many as fit a core's cache
SHARED_BLOCK_OF_A_GPU = 100_000

X, T = torch.tensor(TOY_X)[:, None], torch.tensor(TOY_T)[:, None]
N = len(X)
SINGLES = [(i,) for i in range(N)]
PAIRS = list(itertools.combinations(range(N), 2))

Setting = tuple[float, float]  # λ and the probability of dropout


@dataclass(frozen=True)
class Experiment:
    """What is trained: every λ with every probability of dropout."""

    activation: str = "tanh"
    weight_decays: tuple[float, ...] = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    dropouts: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.2)
    updates: int = 2000
    record_every: int = 20
    learning_rate: float = 0.05
    seeds: int = 5
    seed: int = 0
    device: str = "cpu"

    @property
    def settings(self) -> list[Setting]:
        """Every pair (λ, p), p varying fastest."""
        return list(itertools.product(self.weight_decays, self.dropouts))

    @property
    def records(self) -> list[int]:
        """The numbers of updates at which errors are recorded."""
        return list(range(0, self.updates + 1, self.record_every))


@dataclass(frozen=True)
class Scores:
    """Errors of E records, C settings and R seeds at the N points; squared where not called signed."""

    held_out: Tensor  # (E, C, R, N) signed: y − t at point i of the network that never saw it
    inner: Tensor  # (E, C, N, N): [i, j] at point j of the networks that saw neither i nor j, mean over seeds
    training: Tensor  # (E, C): mean over the seen points, folds and seeds
    seconds: Tensor  # (C,) spent on each setting


def shares(subsets: Sequence[tuple[int, ...]]) -> Tensor:
    """(S, 1, N, 1): each point's share of the loss when ``subsets`` are left out."""
    share = torch.ones(len(subsets), N)
    for row, subset in zip(share, subsets):
        row[list(subset)] = 0.0
    return (share / share.sum(1, keepdim=True))[:, None, :, None]


def train(
    experiment: Experiment,
    settings: Sequence[Setting],
    subsets: Sequence[tuple[int, ...]],
    seeds: int,
    stop_at: Sequence[int] | None = None,
    progress: Callable[[int], object] | None = None,
) -> History:
    """Networks (S, C·R): without each of ``subsets``, with each of ``settings`` and seeds.

    The same seed starts from the same weights everywhere, so that settings and folds are compared in pairs;
    folds share their dropout masks. ``stop_at`` gives each setting the update whose weights are kept. They are trained
    on the experiment's device, and come back on the CPU.
    """
    device = torch.device(experiment.device)
    generator = torch.Generator().manual_seed(experiment.seed)
    start = make_networks(SIZES, seeds, generator)
    lead = (len(subsets), len(settings) * seeds)
    layers = [
        (w.repeat(*lead[:1], len(settings), 1, 1).to(device), b.repeat(*lead[:1], len(settings), 1).to(device))
        for w, b in ((w[None], b[None]) for w, b in start)
    ]
    decays, dropouts = (torch.tensor(values).repeat_interleave(seeds)[None, :, None, None] for values in zip(*settings))
    stops = None if stop_at is None else torch.tensor(stop_at).repeat_interleave(seeds).expand(lead)
    if device.type != "cpu":
        decays, dropouts, stops = decays.to(device), dropouts.to(device), None if stops is None else stops.to(device)
        generator = torch.Generator(device).manual_seed(experiment.seed)  # of the masks: starts are the CPU's
    history = train_networks(
        X.to(device),
        T.to(device),
        layers,
        activation=experiment.activation,
        updates=experiment.updates,
        learning_rate=experiment.learning_rate,
        share=shares(subsets).to(device),
        weight_decay=decays,
        dropout=dropouts if dropouts.any() else 0.0,
        stop_at=stops,
        record_every=experiment.record_every,
        generator=generator,
        progress=progress,
    )
    return History(history.updates, history.errors.cpu(), [(w.cpu(), b.cpu()) for w, b in history.layers])


def score_block(
    experiment: Experiment, settings: Sequence[Setting], progress: Callable[[int], object] | None = None
) -> Scores:
    """Train every fold of some settings, and keep the errors that a choice or a report needs."""
    begin = time.perf_counter()
    history = train(experiment, settings, [*SINGLES, *PAIRS], experiment.seeds, progress=progress)
    errors = history.errors.squeeze(-1).unflatten(2, (len(settings), experiment.seeds))  # (E, S, C, R, N)
    single, pair = errors.split([len(SINGLES), len(PAIRS)], 1)
    held_out = single.diagonal(dim1=1, dim2=4)  # (E, C, R, N)
    inner = torch.full((len(errors), len(settings), N, N), torch.nan)
    for s, (i, j) in enumerate(PAIRS):
        inner[:, :, i, j] = pair[:, s, :, :, j].square().mean(-1)
        inner[:, :, j, i] = pair[:, s, :, :, i].square().mean(-1)
    seen = (shares(SINGLES).squeeze(-1)[:, :, None] * single.square()).sum(-1)  # (E, S, C, R)
    seconds = torch.full((len(settings),), (time.perf_counter() - begin) / len(settings))
    return Scores(held_out, inner, seen.mean((1, 3)), seconds)


def blocks_of(experiment: Experiment) -> list[list[Setting]]:
    """The settings in blocks that are trained together; those without dropout apart, for they need no masks."""
    together = SHARED_BLOCK if experiment.device == "cpu" else SHARED_BLOCK_OF_A_GPU
    size = max(1, together // (len(SINGLES + PAIRS) * experiment.seeds))
    dropped = [setting for setting in experiment.settings if setting[1]]
    plain = [setting for setting in experiment.settings if not setting[1]]
    return [part[at : at + size] for part in (dropped, plain) for at in range(0, len(part), size)]


def score_all(experiment: Experiment, progress: Callable[[int], object] | None = None) -> Scores:
    """`score_block` over the whole grid, a block of networks on each core at a time."""
    blocks = blocks_of(experiment)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads if experiment.device == "cpu" else 1) as pool:
            parts = list(pool.map(lambda block: score_block(experiment, block, progress), blocks))
    finally:
        torch.set_num_threads(threads)
    order = [setting for block in blocks for setting in block]
    index = torch.tensor([order.index(setting) for setting in experiment.settings])
    return Scores(
        held_out=torch.cat([part.held_out for part in parts], 1)[:, index],
        inner=torch.cat([part.inner for part in parts], 1)[:, index],
        training=torch.cat([part.training for part in parts], 1)[:, index],
        seconds=torch.cat([part.seconds for part in parts])[index],
    )


def total_progress(experiment: Experiment) -> int:
    """How many updates `score_all` reports to its ``progress``, all blocks together."""
    return len(blocks_of(experiment)) * experiment.updates
