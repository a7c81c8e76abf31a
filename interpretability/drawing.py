"""Attribution maps as figures: one row per method or layer, on a common raw scale with its colour bar."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from torch import Tensor
from torch.nn import functional as F

from interpretability.whole_files import whole_file

PANEL_INCHES = 2.6
SIGNED, UNSIGNED = "RdBu_r", "viridis"  # red speaks for the score and blue against it; both colour-blind safe
CLIPPED_SHARE = 0.002  # of a row's values may lie beyond its scale, so that a few do not hide the rest
FAINTEST = 0.12  # opacity of a value of zero over the image


def flat_map(attribution: Tensor, additive: bool = True) -> Tensor:
    """One number per position, (N, C, h, w) -> (N, h, w), raw.

    Contributions (``additive``) are summed over channels, sensitivities are their largest magnitude, as in
    Simonyan et al. 2013. A vector (N, D) is a row of D positions.
    """
    maps = attribution.detach().cpu()
    if maps.ndim == 2:
        maps = maps[:, None, None]
    if maps.ndim != 4:
        raise ValueError(f"cannot draw an attribution of shape {tuple(attribution.shape)}: not (N, C, h, w) or (N, D)")
    return maps.sum(dim=1) if additive else maps.abs().amax(dim=1)


def draw_maps(images: Tensor, rows: Mapping[str, Tensor], titles: Sequence[str]) -> Figure:
    """A grid: the images on top, below them a row of maps for each entry of ``rows``.

    Args:
        images: (M, C, H, W) in [0, 1], one per column; grey (C = 1) or colour (C = 3).
        rows: label -> maps (M, h, w), raw. A row has one scale and one colour bar: diverging about zero
            where it has negative values. Maps smaller than the image are laid over it, smoothly enlarged.
        titles: of the columns.

    Raises:
        ValueError: rows or titles that are not one per image, or maps that are not finite.
    """
    images = images.detach().cpu().float()
    for label, maps in rows.items():
        if maps.ndim != 3 or len(maps) != len(images):
            raise ValueError(f"row {label!r} has shape {tuple(maps.shape)}; {len(images)} maps (h, w) are wanted")
        if not torch.isfinite(maps).all():
            raise ValueError(f"row {label!r} holds NaN or infinite values, which cannot be drawn")
    if len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images")
    height, width = images.shape[2:]
    panel = PANEL_INCHES * min(max(height / width, 0.3), 3.0)
    size = (PANEL_INCHES * len(images) + 1.3, (panel + 0.06) * (len(rows) + 1) + 0.45)
    spacing = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, hspace=0.0, wspace=0.0)
    figure = Figure(figsize=size, dpi=130, layout=spacing)
    shares = [1.0] * len(images) + [0.05]  # the last column is for the colour bars
    grid = figure.subplots(len(rows) + 1, len(images) + 1, squeeze=False, gridspec_kw={"width_ratios": shares})
    grid[0, -1].set_axis_off()
    for axes, image, title in zip(grid[0], images, titles):
        show_image(axes, image)
        axes.set_title(title, fontsize=9, parse_math=False)  # a file's or a class's name, whatever stands in it
    for (*axes_row, bar), (label, maps) in zip(grid[1:], rows.items()):
        axes_row[0].set_ylabel(label, fontsize=9, parse_math=False)
        draw_row(figure, axes_row, bar, images, maps.detach().cpu().double())
    return figure


def draw_row(figure: Figure, axes_row: Sequence[Axes], bar_axes: Axes, images: Tensor, maps: Tensor) -> None:
    """Maps (M, h, w) over their images on one raw scale, and its colour bar, pointed where values lie beyond it."""
    largest = float(maps.abs().max())
    limit = float(np.quantile(maps.abs().numpy(), 1 - CLIPPED_SHARE)) or largest or 1.0
    signed = bool((maps < 0).any())
    norm, colours = Normalize(-limit if signed else 0, limit), SIGNED if signed else UNSIGNED
    for axes, image, values in zip(axes_row, images, maps):
        if len(values) == 1 < image.shape[1]:  # a layer without positions: a strip of its units
            axes.imshow(values.numpy(), cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        else:
            show_image(axes, image.mean(dim=0, keepdim=True), faded=True)
            opacity = (values.abs() / limit).clamp(0, 1).sqrt() * (1 - FAINTEST) + FAINTEST
            over, alpha = (enlarged(layer, image.shape[1:]).numpy() for layer in (values, opacity))
            axes.imshow(over, cmap=colours, norm=norm, alpha=alpha, interpolation="nearest")
        if not values.any():
            axes.text(0.5, 0.5, "zero everywhere", transform=axes.transAxes, ha="center", va="center", fontsize=9)
    formatter = ScalarFormatter(useMathText=True)
    formatter.set_powerlimits((-3, 4))
    extend = "neither" if largest <= limit else "both" if signed else "max"
    scale = ScalarMappable(norm, colours)
    bar = figure.colorbar(scale, cax=bar_axes, extend=extend, format=formatter, ticks=MaxNLocator(5))
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.get_offset_text().set_fontsize(8)


def enlarged(values: Tensor, size: Sequence[int]) -> Tensor:
    """A map (h, w) at the ``size`` of the image, bilinearly."""
    if values.shape == torch.Size(size):
        return values
    return F.interpolate(values[None, None].float(), size=tuple(size), mode="bilinear", align_corners=False)[0, 0]


def show_image(axes: Axes, image: Tensor, faded: bool = False) -> None:
    """An image (C, H, W) in [0, 1] without ticks, grey or colour; ``faded`` to a backdrop for a map."""
    pixels = image.clamp(0, 1)
    pixels = 0.35 + 0.65 * pixels if faded else pixels
    if len(pixels) == 3:
        axes.imshow(pixels.permute(1, 2, 0).numpy(), interpolation="nearest")
    else:
        axes.imshow(pixels[0].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def save_figure(figure: Figure, path: str | Path, dpi: float | None = None) -> Path:
    """Write ``figure`` to ``path``, all of it or nothing, in the format of its suffix; missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix(".") or "png", dpi=dpi)
    return path
