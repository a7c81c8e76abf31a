"""Two pictures of an evaluation: every measure with its intervals, and the maps as the network is randomised."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from interpretability.evaluation.comparison import MEASURES, Evaluation
from interpretability.evaluation.table import interval

SMALLEST = 1e-3  # what a panel with a logarithmic axis tells from 0
BLUE, ORANGE = "#0072b2", "#d55e00"  # told apart by colour-blind readers too


def measures_figure(evaluation: Evaluation, title: str, reference: str | None = None) -> Figure:
    """A panel a measure, a line a method, points with 95 % intervals; dotted, where ``reference`` is."""
    methods = list(evaluation.values)
    names = evaluation.measured()
    figure = Figure(figsize=(2.5 * len(names), 1.6 + 0.32 * len(methods)), layout="constrained")
    figure.suptitle(title, parse_math=False)
    axes = figure.subplots(1, len(names), sharey=True)
    for axis, (name, measure) in zip(axes, ((name, MEASURES[name]) for name in names)):
        found = [interval(evaluation.values[method][name]) for method in methods]
        for row, (mean, low, high) in enumerate(found):
            axis.plot([low, high], [row, row], color=BLUE, linewidth=2)
            axis.plot(mean, row, "o", color=ORANGE if methods[row] == reference else BLUE, markersize=6)
        if reference in methods:
            axis.axvline(found[methods.index(reference)].mean, color=ORANGE, linestyle=":", linewidth=1)
        if name in ("sensitivity", "completeness"):
            _scale_by_decades(axis, [mean for mean, _, _ in found])
        axis.set_title(f"{measure.title}\n{'higher' if measure.better == '↑' else 'lower'} is better", fontsize=10)
        axis.grid(axis="x", alpha=0.3)
        axis.tick_params(axis="x", labelsize=8)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    return figure


def agreement_figure(evaluation: Evaluation, title: str) -> Figure:
    """The rank correlation of every two methods' maps as a matrix of numbers and colours."""
    if evaluation.agreement is None:
        raise ValueError("the evaluation holds no agreement between methods")
    methods, values = list(evaluation.values), evaluation.agreement.cpu().numpy()
    side = 2.5 + 0.5 * len(methods)
    figure = Figure(figsize=(side, side), layout="constrained")
    figure.suptitle(title, parse_math=False)
    axis = figure.subplots()
    axis.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(values):
        axis.text(
            column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color="k" if abs(value) < 0.6 else "w"
        )
    axis.set_xticks(range(len(methods)), methods, rotation=90)
    axis.set_yticks(range(len(methods)), methods)
    return figure


def randomization_figure(evaluation: Evaluation, image: np.ndarray, title: str) -> Figure:
    """A row a method: the first sample's map by the trained network, then with ever more layers randomised.

    Each map has its own symmetric scale (the values' scale changes with the weights); the number over it is how
    alike it is to the trained network's map, |ρ|, the mean over the samples.

    Args:
        evaluation: as measured.
        image: the first sample, (H, W) or (H, W, 3) in [0, 1].
        title: over everything.
    """
    methods, stages = list(evaluation.maps), evaluation.stages
    figure = Figure(figsize=(1.25 * (len(stages) + 3), 1.35 * len(methods) + 0.8), layout="constrained")
    figure.suptitle(title, parse_math=False)
    axes = figure.subplots(len(methods), len(stages) + 2, squeeze=False)
    for row, method in zip(axes, methods):
        row[0].imshow(image, cmap="gray", vmin=0, vmax=1)
        row[0].set_ylabel(method, rotation=0, ha="right", va="center", fontsize=10)
        for axis, values in zip(row[1:], evaluation.maps[method].cpu().numpy()):
            limit = np.quantile(np.abs(values), 0.995) or 1.0
            axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
            if not values.any():
                axis.text(0.5, 0.5, "zero", transform=axis.transAxes, ha="center", va="center", fontsize=9)
        for axis, similar in zip(row[2:], evaluation.similarity[method]):
            axis.set_title(f"{similar.mean():.2f}", fontsize=9, pad=2)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, label in zip(axes[-1], ["image", "trained", *map(_stage_label, stages)]):
        axis.set_xlabel(label, fontsize=8)
    return figure


def _stage_label(name: str) -> str:
    """A layer's dotted name, without a wrapper's prefix, in lines that fit under a map."""
    name = name.removeprefix("model.")
    block, _, last = name.rpartition(".")
    return f"↓ {block}.\n{last}" if len(name) > 14 else f"↓ {name}"


def _scale_by_decades(axis: Axes, values: list[float]) -> None:
    """A logarithmic axis with a place for 0, where the values need one."""
    large = [value for value in values if value > SMALLEST]
    if not large or max(large) < 30 * min(large):
        axis.set_xlim(left=min(0.0, axis.get_xlim()[0]))
        return
    axis.set_xscale("symlog", linthresh=min(large), linscale=0.5)
    axis.set_xlim(-0.3 * min(large), 2 * max(large))
    ticks = [10.0**power for power in range(-3, 9) if min(large) / 2 <= 10.0**power <= 2 * max(large)]
    axis.set_xticks([0, *ticks[:: 1 + len(ticks) // 5]], minor=False)
    axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
