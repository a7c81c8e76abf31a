"""Ours against a peer, in one run: alternating, the median of several, reported as a ratio."""

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

Measured = Callable[[], float | None]  # does the work once; may return its own seconds instead of being timed


@dataclass(frozen=True)
class Result:
    """One row of the table: seconds of each side (medians) and the ratio ours / peer."""

    name: str
    peer: str
    ours_seconds: float
    peer_seconds: float
    bound: float | None = None

    @property
    def ratio(self) -> float:
        """Ours over peer: below 1 means that ours is faster."""
        return self.ours_seconds / self.peer_seconds

    @property
    def within_bound(self) -> bool | None:
        """Whether the ratio keeps its bound; None where there is none."""
        return None if self.bound is None else self.ratio <= self.bound


def seconds(work: Measured) -> float:
    """How long one call of ``work`` takes, unless it measured itself."""
    start = time.perf_counter()
    own = work()
    return time.perf_counter() - start if own is None else own


def compare(
    name: str,
    ours: Measured,
    peer: Measured,
    *,
    peer_name: str,
    bound: float | None = None,
    repeats: int = 7,
    warmup: int = 1,
) -> Result:
    """Time ``ours`` and ``peer`` in turn (A B A B …) after ``warmup`` uncounted calls of each."""
    for _ in range(warmup):
        ours()
        peer()
    pairs = [(seconds(ours), seconds(peer)) for _ in range(repeats)]
    ours_seconds, peer_seconds = (statistics.median(side) for side in zip(*pairs))
    return Result(name, peer_name, ours_seconds, peer_seconds, bound)


class Stopwatch(Callback):
    """The time from the first batch to the end of the last epoch, without set-up and what follows."""

    seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self.start


def fit_seconds(
    model: LightningModule, data: LightningDataModule, callbacks: tuple[Callback, ...] = (), **trainer: Any
) -> float:
    """Train through a Trainer without progress bar, summary and checkpoints; the seconds of training."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    stopwatch = Stopwatch()
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(callbacks=[stopwatch, *callbacks], **quiet | trainer).fit(model, data)
    return stopwatch.seconds
