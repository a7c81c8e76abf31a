"""How a layout is drawn: training and held-out data side by side, by label and by prediction.

Imports numpy, matplotlib and Pillow alone, so that a worker process starts fast.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

PALETTE = ["#332288", "#ee7733", "#44aa99", "#cc3311", "#88ccee", "#999933", "#aa4499", "#117733", "#bbbbbb", "#ddaa33"]
MAX_LEGEND = 20
FRAME_MILLISECONDS, LAST_FRAME_MILLISECONDS = 700, 2500


@dataclass
class Points:
    """A layout (N, 2) with each point's label, prediction and split, and the names to show for them."""

    coordinates: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    held_out: np.ndarray
    class_names: list[str]
    held_out_name: str = "validation"


def colours(n: int) -> np.ndarray:
    """RGB colours (n, 3) for the classes: Paul Tol's for up to ten, then a scale."""
    if n <= len(PALETTE):
        return np.array([[int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)] for code in PALETTE[:n]])
    return colormaps["nipy_spectral"](np.linspace(0.03, 0.97, n))[:, :3]


def limits(coordinates: np.ndarray) -> tuple[np.ndarray, float]:
    """The centre and half-width of a square that holds all points, with a margin."""
    low, high = coordinates.min(0), coordinates.max(0)
    return (low + high) / 2, float((high - low).max()) * 0.54 or 1.0


def draw_panel(
    axes: Axes, points: Points, chosen: np.ndarray, by: np.ndarray, window: tuple[np.ndarray, float]
) -> None:
    """The ``chosen`` points, coloured by the classes ``by``; mistakes are ringed, classes named at their middle."""
    shade = colours(len(points.class_names))
    size = float(np.clip(9000 / max(len(points.labels), 1), 6, 40))
    x, y = points.coordinates[chosen].T
    axes.scatter(x, y, s=size, c=shade[by[chosen]], linewidths=0)
    wrong = chosen & (points.labels != points.predictions)
    x, y = points.coordinates[wrong].T
    axes.scatter(x, y, s=size + 34, facecolors="none", edgecolors="black", linewidths=0.9)
    for label in np.unique(by[chosen]) if len(points.class_names) <= MAX_LEGEND else ():
        middle = np.median(points.coordinates[chosen & (by == label)], axis=0)
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": shade[label], "alpha": 0.8}
        name = points.class_names[label][:14]
        axes.text(middle[0], middle[1], name, ha="center", va="center", fontsize=9, bbox=box, parse_math=False)
    centre, half = window
    axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half))
    axes.set(xticks=[], yticks=[], aspect="equal")


def draw_layout(points: Points, title: str) -> Figure:
    """Two by two: training | held-out data, coloured by true label above, by predicted label below."""
    sides = [(f"training ({(~points.held_out).sum()})", ~points.held_out)]
    if points.held_out.any():
        sides.append((f"{points.held_out_name} ({points.held_out.sum()})", points.held_out))
    figure = Figure(figsize=(5.0 * len(sides), 10.6), layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(2, len(sides), squeeze=False)
    window = limits(points.coordinates)
    for row, (by, kind) in enumerate([(points.labels, "true"), (points.predictions, "predicted")]):
        for column, (name, chosen) in enumerate(sides):
            draw_panel(axes[row, column], points, chosen, by, window)
            wrong = int((chosen & (points.labels != points.predictions)).sum())
            axes[row, column].set_title(f"{name}, {kind} label, {wrong} mistakes", fontsize=11)
    ring = Line2D([], [], marker="o", linestyle="", markersize=9, markerfacecolor="none", color="black")
    figure.legend([ring], ["mistake: true and predicted label differ"], loc="outside lower center", frameon=False)
    return figure


def render(figure: Figure, dpi: int = 100) -> np.ndarray:
    """The pixels of a figure, uint8 (H, W, 3)."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def animate(frames: list[tuple[str, Points]]) -> list[Image.Image]:
    """One picture an epoch in a common window, coloured by true label: the frames of a GIF."""
    window = limits(np.concatenate([points.coordinates for _, points in frames]))
    images = []
    for title, points in frames:
        figure = Figure(figsize=(5.4, 5.7), layout="constrained")
        axes = figure.subplots()
        draw_panel(axes, points, np.ones(len(points.labels), dtype=bool), points.labels, window)
        axes.set_title(title, fontsize=11)
        images.append(Image.fromarray(render(figure, dpi=90)).convert("P", palette=Image.Palette.ADAPTIVE))
    return images


def save_gif(images: list[Image.Image], path: str) -> None:
    """Write the frames as an endless GIF that rests on its last one."""
    durations = [FRAME_MILLISECONDS] * (len(images) - 1) + [LAST_FRAME_MILLISECONDS]
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
