"""Learning curves as they are logged, by quantity: which key belongs to which stage, and which epoch was best."""

import math
import re
from collections.abc import Mapping
from typing import Any

STAGES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
STAGED = re.compile(
    r"^(training|train|validation|valid|val|test)[/_.-]|[/_.-](training|train|validation|valid|val|test)$"
)
MOST_POINTS = 400  # of a curve; beyond, neighbours are averaged
MOST_QUANTITIES = 12
FIRST = ("loss", "accuracy", "acc")  # what people look at first


def quantity_of(key: str) -> tuple[str, str]:
    """``val/loss`` and ``val_loss`` are (``loss``, ``val``); a key that names no stage is of ``train``."""
    found = STAGED.search(key)
    if found is None:
        return key, "train"
    return key[: found.start()] + key[found.end() :] or key, STAGES[found[1] or found[2]]


class StepLosses:
    """The training loss of each step (at an x in epochs), averaged so that few points stay, however long the run."""

    def __init__(self) -> None:
        self.points: list[list[float]] = []
        self.each = 1  # steps averaged into a point
        self._open: list[tuple[float, Any]] = []

    def add(self, x: float, loss: Any) -> None:
        """One step; ``loss`` stays on its device until it is asked for."""
        self._open.append((x, loss))
        if len(self._open) >= max(self.each, 50):
            self.flush()

    def flush(self) -> None:
        """Turn what was gathered into points."""
        each = self.each
        for at in range(0, len(self._open), each):
            part = self._open[at : at + each]
            value = math.fsum(float(loss) for _, loss in part) / len(part)
            if math.isfinite(value):
                self.points.append([part[-1][0], value])
        self._open = []
        if len(self.points) > MOST_POINTS:
            pairs = zip(self.points[::2], self.points[1::2])
            self.points = [[later[0], (earlier[1] + later[1]) / 2] for earlier, later in pairs]
            self.each *= 2


class History:
    """What a run has logged, at the end of each epoch and in the test stage; plain data, for a checkpoint."""

    def __init__(self) -> None:
        self.metrics: dict[str, list[list[float]]] = {}  # log key → [epochs done, value]
        self.tested: dict[str, float] = {}
        self.losses = StepLosses()

    def record(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """The metrics at the end of an epoch (from 0); an epoch that comes again replaces what it was."""
        for key, value in metrics.items():
            number = float(value)
            if math.isfinite(number) and not key.endswith("_step"):
                curve = self.metrics.setdefault(key.removesuffix("_epoch"), [])
                while curve and curve[-1][0] >= epoch + 1:
                    curve.pop()
                curve.append([epoch + 1, number])

    def state(self) -> dict[str, Any]:
        """Plain data."""
        self.losses.flush()
        return {"metrics": self.metrics, "losses": self.losses.points, "each": self.losses.each}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.metrics = {key: [list(point) for point in curve] for key, curve in state["metrics"].items()}
        self.losses.points, self.losses.each = [list(point) for point in state["losses"]], state["each"]

    def curves(self) -> list[dict[str, Any]]:
        """A chart for each quantity, the most looked at first: ``{name, series: [{stage, points}], tested}``."""
        self.losses.flush()
        charts: dict[str, dict[str, Any]] = {}
        for key, points in self.metrics.items():
            name, stage = quantity_of(key)
            chart = charts.setdefault(name, {"name": name, "series": {}, "tested": None})
            chart["series"].setdefault(stage, thinned(points))
        for key, value in self.tested.items():
            name, stage = quantity_of(key)
            if stage == "test" and name in charts and math.isfinite(value):
                charts[name]["tested"] = value
        if len(self.losses.points) > 1:
            chart = charts.setdefault("loss", {"name": "loss", "series": {}, "tested": None})
            if len(chart["series"].get("train", [])) < 8:  # few epochs: each step says more
                chart["series"]["step"] = self.losses.points
        order = sorted(charts.values(), key=lambda chart: (rank(chart["name"]), -len(chart["series"])))
        for chart in order:
            chart["series"] = [
                {"stage": stage, "points": rounded(chart["series"][stage])}
                for stage in ("step", "train", "val", "test")
                if stage in chart["series"]
            ]
        return order[:MOST_QUANTITIES]

    def best(self, monitor: str | None, mode: str) -> dict[str, Any] | None:
        """The epoch (counted from 1) whose monitored value is the best, and how many epochs there were."""
        points = self.metrics.get(monitor or "", [])
        if not points:
            return None
        choose = max if mode == "max" else min
        epoch, value = choose(points, key=lambda point: point[1])
        return {"monitor": monitor, "epoch": epoch, "value": value}


def rank(name: str) -> int:
    """Where a quantity stands: those of FIRST, then the others in the order in which they came."""
    return next((place for place, first in enumerate(FIRST) if name.lower() == first), len(FIRST))


def thinned(points: list[list[float]]) -> list[list[float]]:
    """At most MOST_POINTS of them, the last one among these."""
    step = math.ceil(len(points) / MOST_POINTS)
    return points[::-1][::step][::-1]


def rounded(points: list[list[float]]) -> list[list[float]]:
    """Six digits, which is more than a chart shows."""
    return [[float(f"{x:.6g}"), float(f"{y:.6g}")] for x, y in points]
