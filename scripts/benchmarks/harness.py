"""Ours against a peer, in one run: alternating, the median of several, reported as a ratio."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

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
