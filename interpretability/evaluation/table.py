"""The table of an evaluation: means with bootstrap intervals, as text and as CSV."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from interpretability.evaluation.comparison import MEASURES, Evaluation
from interpretability.whole_files import whole_file

RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and the 95 % interval around it; NaN for what the values do not tell."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        if math.isnan(self.low):
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interval(values: Tensor, seed: int = 0) -> Interval:
    """The mean of ``values`` (N,) with its percentile bootstrap interval; a single value has none   eq. 6.8."""
    sample = values.detach().double().cpu().numpy()
    if len(sample) < 2 or np.isnan(sample).any():
        return Interval(float(sample.mean()), math.nan, math.nan)
    drawn = np.random.default_rng(seed).integers(len(sample), size=(RESAMPLES, len(sample)))
    low, high = np.percentile(sample[drawn].mean(axis=1), [2.5, 97.5])
    return Interval(float(sample.mean()), float(low), float(high))


def table(evaluation: Evaluation) -> str:
    """The table in Markdown, its columns aligned: a row a method, a column a measure."""
    names = evaluation.measured()
    head = ["method", *(f"{MEASURES[name].title} {MEASURES[name].better}" for name in names)]
    rows = [[method, *(str(interval(values[name])) for name in names)] for method, values in evaluation.values.items()]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths)] for row in [head, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_csv(evaluation: Evaluation, path: Path) -> None:
    """One line for each method and measure: mean, ends of the interval, number of samples."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "measure", "mean", "low", "high", "samples"])
        for method, values in evaluation.values.items():
            for name in evaluation.measured():
                writer.writerow([method, name, *interval(values[name]), len(values[name])])
