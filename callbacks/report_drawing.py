"""How the test stage is drawn: confusion, precision and recall, calibration, mistakes. Arrays in, figures out."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from callbacks.figures import BLUE, GREY, ORANGE, displayable
from callbacks.training_examples import Examples

MAX_ANNOTATED = 20  # classes: more, and numbers in the cells can no longer be read
MAX_TICKS = 40
MAX_ROWS = 100
PICTURE, BARS = 1.5, 0.6  # inches
MAX_NAME = 16  # characters of a class's name beside a bar


def draw_confusion(confusion: np.ndarray, names: list[str], title: str) -> Figure:
    """Counts (K, K), true classes down, predicted across; the colour is the share of the true class."""
    k = len(names)
    size = min(max(4.8, 1.6 + 0.46 * k), 12.0)
    figure = Figure(figsize=(size + 0.9, size), layout="constrained")
    axes = figure.add_subplot()
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.35, 0, 1))
    if k <= MAX_ANNOTATED:
        for row, column in zip(*np.nonzero(confusion)):
            color = "white" if share[row, column] > 0.25 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=color, fontsize=9)
    label_classes(axes, names)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    figure.colorbar(image, label="share of the true class", shrink=0.8, ticks=[0, 0.01, 0.1, 0.5, 1])
    return figure


def label_classes(axes: Axes, names: list[str]) -> None:
    """Class names along both axes; numbers where there are too many."""
    if len(names) > MAX_TICKS:
        return
    long = max(map(len, names)) > 2
    text = {"parse_math": False}  # names are shown as they are
    axes.set_xticks(range(len(names)), names, rotation=60 if long else 0, ha="right" if long else "center", **text)
    axes.set_yticks(range(len(names)), names, **text)


def draw_per_class(precision: np.ndarray, recall: np.ndarray, names: list[str]) -> Figure:
    """Precision and recall of each class as dots on a common axis, the worst class at the top.

    A class whose recall is NaN was not tested: it is left out. So are all but the worst hundred.
    """
    tested = np.flatnonzero(np.isfinite(recall))
    order = tested[np.argsort(-np.minimum(precision, recall)[tested], kind="stable")][-MAX_ROWS:]
    dense = len(order) > MAX_TICKS
    figure = Figure(figsize=(6.4, 1.4 + (0.17 if dense else 0.28) * len(order)), layout="constrained")
    axes = figure.add_subplot()
    rows = np.arange(len(order))
    title = "Precision and recall of each class"
    if len(order) < len(tested):
        title = f"Precision and recall of the {len(order)} worst of {len(tested)} classes"
    if len(tested) < len(names):
        title += f"\n({len(names) - len(tested)} of {len(names)} classes were not tested)"
    axes.hlines(rows, precision[order], recall[order], color=GREY, linewidth=1.5, alpha=0.6)
    axes.plot(precision[order], rows, "o", color=BLUE, label="precision")
    axes.plot(recall[order], rows, "D", color=ORANGE, markersize=5, label="recall")
    axes.set_yticks(rows, [names[index] for index in order], fontsize=8 if dense else 9, parse_math=False)
    axes.set(xlabel="share", ylabel="class", title=title, ylim=(-0.8, len(order) - 0.2))
    axes.grid(axis="x", alpha=0.25)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_calibration(confidences: np.ndarray, hits: np.ndarray, n_bins: int, error: float) -> Figure:
    """Accuracy against confidence in equal bins (top), and how many predictions each bin holds."""
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.clip(np.digitize(confidences, edges[1:-1], right=True), 0, n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    held = counts > 0
    accuracy = np.bincount(bins, hits, n_bins)[held] / counts[held]
    confidence = np.bincount(bins, confidences, n_bins)[held] / counts[held]
    figure = Figure(figsize=(5.2, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 1], [0, 1], "--", color=GREY, label="perfectly calibrated")
    top.plot(confidence, accuracy, "o-", color=BLUE, label="this model")
    top.set(ylabel="accuracy", ylim=(-0.03, 1.03), title=f"Expected calibration error {error:.4f}")
    top.legend(frameon=False, loc="best")
    top.grid(alpha=0.25)
    bottom.bar(edges[:-1], counts, width=1 / n_bins, align="edge", color=BLUE, edgecolor="white")
    bottom.set(xlabel="confidence in the predicted class", ylabel="predictions", yscale="log", xlim=(0, 1))
    bottom.set_ylim(bottom=0.7)
    return figure


def draw_mistakes(
    images: np.ndarray,
    probabilities: np.ndarray,
    targets: np.ndarray,
    names: list[str],
    examples: Examples | None = None,
) -> Figure:
    """Each mistake (N, C, H, W) with its three most probable classes, the true one always among them.

    Under it stand the training images most like it, and those that spoke most for what is said of it.
    """
    columns = min(len(images), 5)
    rows = math.ceil(len(images) / columns)
    margin = 0.15 + 0.085 * min(max(map(len, names)), MAX_NAME)  # inches, for the names beside the bars
    below = 0.0 if examples is None else 2 * thumbnail(examples) + 0.5
    cell_width, cell_height = margin + PICTURE + 0.15, PICTURE + BARS + 0.3 + below
    width, height = max(columns * cell_width, 4.6), rows * cell_height + 0.4  # the title needs 4.6
    figure = Figure(figsize=(width, height))
    figure.text(
        0.5, 1 - 0.2 / height, "Worst mistakes, the true class in orange", ha="center", va="center", fontsize=12
    )
    for index, (image, p, target) in enumerate(zip(images, probabilities, targets)):
        row, column = divmod(index, columns)
        left, top = column * cell_width + margin, height - 0.4 - row * cell_height
        picture = add_axes(figure, left, top - PICTURE, PICTURE, PICTURE)
        picture.imshow(displayable(image), cmap="gray", vmin=0, vmax=1)
        picture.set_axis_off()
        bars = add_axes(figure, left, top - PICTURE - 0.06 - BARS, PICTURE, BARS)
        draw_probabilities(bars, p, int(target), names)
        if examples is not None:
            draw_examples(figure, left, top - PICTURE - 0.06 - BARS, examples, index, names)
    return figure


def thumbnail(examples: Examples) -> float:
    """The side of a training image, in inches."""
    return PICTURE / max(examples.similar.shape[1], 3)


def draw_examples(figure: Figure, left: float, top: float, examples: Examples, index: int, names: list[str]) -> None:
    """Two rows of training images, each with its class: those like mistake ``index``, those that spoke for it."""
    side, (across, up) = thumbnail(examples), figure.get_size_inches()
    rows = [("like it", examples.similar, examples.similar_labels)]
    rows += [("for it", examples.influential, examples.influential_labels)]
    for row, (what, images, labels) in enumerate(rows):
        bottom = top - (row + 1) * (side + 0.22)
        figure.text(
            (left - 0.03) / across,
            (bottom + side / 2) / up,
            what.replace(" ", "\n"),
            fontsize=6,
            ha="right",
            va="center",
        )
        for column, (image, label) in enumerate(zip(images[index].float().numpy(), labels[index].tolist())):
            axes = add_axes(figure, left + column * side, bottom, side * 0.94, side * 0.94)
            axes.imshow(displayable(image), cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
            axes.set_title(names[label][:8], fontsize=6, pad=1, parse_math=False)


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches, which for many axes is much faster than an automatic layout."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def draw_probabilities(axes: Axes, p: np.ndarray, target: int, names: list[str], n_shown: int = 3) -> None:
    """The most probable classes as bars, the true one always among them."""
    shown = [int(index) for index in np.argsort(-p)[:n_shown]]
    if target not in shown:
        shown[-1] = target
    axes.barh(range(len(shown)), p[shown], color=[ORANGE if index == target else BLUE for index in shown])
    for row, index in enumerate(shown):
        share = f"{p[index]:.0%}" if p[index] >= 0.01 else f"{p[index]:.1%}" if p[index] >= 0.001 else "< 0.1%"
        axes.text(p[index] + 0.03, row, share, va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [names[index][:MAX_NAME] for index in shown], fontsize=9, parse_math=False)
    for label, index in zip(axes.get_yticklabels(), shown):
        label.set(color=ORANGE if index == target else "black", fontweight="bold" if index == target else "normal")
    axes.set(xlim=(0, 1.3), xticks=[])
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)
