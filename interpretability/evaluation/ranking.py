"""Which method to use for a model: mean ranks with intervals, next to the measures that they are made of."""

from typing import NamedTuple

import numpy as np
import torch

from interpretability.evaluation.comparison import MEASURES, Evaluation
from interpretability.evaluation.explainers import RANDOM
from interpretability.evaluation.table import RESAMPLES, Interval, interval

JUDGED = ("deletion", "insertion", "infidelity", "road", "sensitivity")
FORGETS = 0.3  # the similarity after randomisation beyond which a map is not about what was learned


class Ranked(NamedTuple):
    """A method's mean rank, 1 the best, and its rank by each measure."""

    method: str
    mean: Interval
    parts: dict[str, float]
    fails: bool  # its map outlives the network


def ranking(evaluation: Evaluation, seed: int = 0) -> list[Ranked]:
    """The methods by their mean rank over the measures ``JUDGED``, best first   eq. 6.15.

    Intervals come from drawing the samples anew, the same for all methods and measures. Random maps are ranked too.
    """
    methods = list(evaluation.values)
    names = [name for name in JUDGED if all(name in values for values in evaluation.values.values())]
    values = np.stack([[evaluation.values[m][n].double().cpu().numpy() for m in methods] for n in names])
    signs = np.array([1.0 if MEASURES[name].better == "↓" else -1.0 for name in names])[:, None]
    parts = _ranks(signs * values.mean(axis=2))  # (measures, methods)
    samples = values.shape[2]
    drawn = np.random.default_rng(seed).integers(samples, size=(RESAMPLES, samples))
    again = np.stack([_ranks(signs * values[:, :, rows].mean(axis=2)).mean(axis=0) for rows in drawn])
    low, high = np.percentile(again, [2.5, 97.5], axis=0) if samples > 1 else (parts[0] * np.nan,) * 2
    found = []
    for i, method in enumerate(methods):
        similar = interval(evaluation.values[method]["randomization"])
        bound = similar.mean if np.isnan(similar.low) else similar.low
        mean = Interval(float(parts[:, i].mean()), float(low[i]), float(high[i]))
        found.append(Ranked(method, mean, dict(zip(names, parts[:, i].tolist())), bool(bound > FORGETS)))
    return sorted(found, key=lambda one: one.mean.mean)


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each column in its row, 1 the least, equal ones at their mean."""
    table = torch.from_numpy(values)
    below = (table[:, None, :] < table[:, :, None]).sum(dim=2)
    same = (table[:, None, :] == table[:, :, None]).sum(dim=2)
    return (below + (same + 1) / 2).numpy()


def ranking_table(found: list[Ranked]) -> str:
    """The ranking in Markdown: the mean rank, and the rank by each measure that it is the mean of."""
    names = list(found[0].parts)
    head = ["method", "mean rank", *(MEASURES[name].title for name in names), "randomisation"]
    rows = [
        [one.method, str(one.mean), *(f"{one.parts[name]:g}" for name in names), "fails" if one.fails else "passes"]
        for one in found
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths)] for row in [head, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(found: list[Ranked]) -> str:
    """Two sentences: which method to use for this model, and which failed the randomisation check."""
    trusted = [one for one in found if not one.fails and one.method != RANDOM]
    chance = next((one for one in found if one.method == RANDOM), None)
    better = [one for one in trusted if chance is None or one.mean.mean < chance.mean.mean]
    failed = [one.method for one in found if one.fails and one.method != RANDOM]
    second = (
        f"Failed the randomisation check (their maps hardly change when the network forgets): {', '.join(failed)}."
        if failed
        else "No method failed the randomisation check."
    )
    if not better:
        return f"For this model no method that passes the randomisation check ranks above a random map. {second}"
    best = better[0]
    close = [one.method for one in better[1:] if one.mean.low <= best.mean.high]
    words = f", though by these images {', '.join(close)} cannot be told from it" if close else ""
    return f"For this model use {best.method}: its mean rank is the best, {best.mean}{words}. {second}"
