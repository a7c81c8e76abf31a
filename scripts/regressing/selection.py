"""Choosing settings and stop epochs by leave-one-out, and scoring the choice on points that it never saw."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from regressing.experiment import Experiment, Scores, Setting


@dataclass(frozen=True)
class Variant:
    """A regulariser: what it may choose among."""

    name: str
    settings: tuple[int, ...]  # indices into `Experiment.settings`
    stops_early: bool


class Choice(NamedTuple):
    """A setting and a record (how long to train), both as indices."""

    setting: int
    record: int


@dataclass(frozen=True)
class Outcome:
    """What leave-one-out says of a variant."""

    variant: Variant
    setting: Setting
    choice: Choice  # by all points: what the final fit uses
    updates: int
    selected_mse: float  # leave-one-out error of that choice: the number it was selected on
    held_out: np.ndarray  # (N,) y − t at each point, mean over seeds, by choices that never saw it
    squared: np.ndarray  # (N,) the squared error there, mean over seeds
    interval: tuple[float, float]  # 95 % bootstrap interval of its mean
    training: np.ndarray  # (E,) training error while training with the chosen setting
    validation: np.ndarray  # (E,) leave-one-out error likewise
    seconds: float  # spent on the variant's settings

    @property
    def loo_mse(self) -> float:
        """The honest leave-one-out error."""
        return float(self.squared.mean())


def variants(experiment: Experiment) -> list[Variant]:
    """The five of the exercise; a grid without 0 leaves out those that need it."""
    settings = experiment.settings
    plain = tuple(i for i, (decay, p) in enumerate(settings) if decay == p == 0)
    decayed = tuple(i for i, (decay, p) in enumerate(settings) if decay > 0 and p == 0)
    dropped = tuple(i for i, (decay, p) in enumerate(settings) if decay == 0 and p > 0)
    every = tuple(range(len(settings)))
    all_variants = [
        Variant("none", plain, False),
        Variant("early stopping", plain, True),
        Variant("weight decay", decayed, False),
        Variant("dropout", dropped, False),
        Variant("best combination", every, True),
    ]
    return [variant for variant in all_variants if variant.settings]


def choose(curves: np.ndarray, variant: Variant) -> Choice:
    """The best of the variant's settings and records by ``curves`` (E, C) of held-out error."""
    allowed = curves[:, variant.settings] if variant.stops_early else curves[-1:, variant.settings]
    record, column = np.unravel_index(np.argmin(allowed), allowed.shape)
    return Choice(variant.settings[column], int(record) if variant.stops_early else len(curves) - 1)


def bootstrap_interval(values: np.ndarray, seed: int, draws: int = 10_000) -> tuple[float, float]:
    """The central 95 % of the mean of ``values`` (N,) resampled with replacement (eq. 6.8)."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def judge(experiment: Experiment, scores: Scores, variant: Variant) -> Outcome:
    """Choose by inner points for each outer point and score there (eq. 2.12); choose once more for the fit."""
    signed = scores.held_out.numpy()  # (E, C, R, N)
    curves = (signed**2).mean(2)  # (E, C, N)
    inner = np.nanmean(scores.inner.numpy(), axis=3)  # (E, C, N): without point i, mean over the others left out
    points = range(signed.shape[-1])
    choices = [choose(inner[:, :, i], variant) for i in points]
    held_out = np.array([signed[c.record, c.setting, :, i].mean() for i, c in zip(points, choices)])
    squared = np.array([curves[c.record, c.setting, i] for i, c in zip(points, choices)])
    mean_curves = curves.mean(2)
    final = choose(mean_curves, variant)
    return Outcome(
        variant=variant,
        setting=experiment.settings[final.setting],
        choice=final,
        updates=experiment.records[final.record],
        selected_mse=float(mean_curves[final.record, final.setting]),
        held_out=held_out,
        squared=squared,
        interval=bootstrap_interval(squared, experiment.seed),
        training=scores.training[:, final.setting].numpy(),
        validation=mean_curves[:, final.setting],
        seconds=float(scores.seconds[list(variant.settings)].sum()),
    )
