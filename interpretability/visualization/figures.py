"""Visualisations side by side, with what they are of."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from interpretability.drawing import show_image

PANEL_INCHES = 1.9


def draw_features(images: Tensor, columns: Sequence[str], rows: Sequence[str] = (), width: int = 5) -> Figure:
    """Images (M, C, H, W) in [0, 1] in a grid.

    With ``rows``, one row each, of as many images as there are ``columns``, which are named once on top.
    Without, every image has its own title in ``columns``, and at most ``width`` stand side by side.
    """
    images = images.detach().cpu()
    across = len(columns) if rows else min(width, len(images))
    down = len(rows) or -(-len(images) // across)
    if len(images) != (down * across if rows else len(columns)):
        raise ValueError(f"{len(images)} images for {len(columns)} titles and {len(rows)} rows")
    panel = PANEL_INCHES * images.shape[2] / images.shape[3]
    heading = 0.04 if rows else 0.22
    size = (PANEL_INCHES * across + (0.4 if rows else 0.0), (panel + heading) * down + (0.22 if rows else 0.05))
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, hspace=0.0, wspace=0.0)
    figure = Figure(figsize=size, dpi=110, layout=layout)
    grid = figure.subplots(down, across, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index >= len(images):
            axes.set_axis_off()
            continue
        show_image(axes, images[index])
        if not rows or index < across:
            axes.set_title(columns[index], fontsize=9, parse_math=False)
        if rows and index % across == 0:
            axes.set_ylabel(rows[index // across], fontsize=9, parse_math=False)
    return figure
