"""Pictures of attacks: image, noise, adversarial image and explanations in a row; accuracy against ε."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from interpretability.drawing import draw_row, show_image

PANEL_INCHES = 2.1
MARKERS = "os^Dv"


def draw_attacks(
    images: Tensor,
    adversarial: Tensor,
    before: Sequence[str],
    after: Sequence[str],
    maps: Tensor | None = None,
    method: str = "",
) -> Figure:
    """One row per image: original, amplified noise, adversarial image, and what explains each prediction.

    ``images`` and ``adversarial`` are (N, C, H, W) in [0, 1]; ``before`` and ``after`` say what each is taken
    for. ``maps`` (N, 2, h, w) are attributions by ``method`` for the two predictions, on one scale per row.
    """
    images, adversarial = images.detach().cpu(), adversarial.detach().cpu()
    shares = [1.0] * 3 + ([1.0, 1.0, 0.05] if maps is not None else [])
    panel = PANEL_INCHES * images.shape[2] / images.shape[3]
    size = (PANEL_INCHES * len(shares) - (1.3 if maps is not None else 0.0), (panel + 0.48) * len(images) + 0.15)
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, hspace=0.0, wspace=0.0)
    figure = Figure(figsize=size, dpi=110, layout=layout)
    grid = figure.subplots(len(images), len(shares), squeeze=False, gridspec_kw={"width_ratios": shares})
    for n, axes in enumerate(grid):
        show_image(axes[0], images[n])
        axes[0].set_title(before[n], fontsize=9, parse_math=False)
        show_noise(axes[1], adversarial[n] - images[n])
        show_image(axes[2], adversarial[n])
        axes[2].set_title(after[n], fontsize=9, parse_math=False)
        if maps is not None:
            draw_row(figure, axes[3:5], axes[5], images[n : n + 1].expand(2, -1, -1, -1), maps[n].detach().cpu())
            axes[3].set_title(f"{method}\nbefore", fontsize=9)
            axes[4].set_title(f"{method}\nafter", fontsize=9)
    return figure


def draw_counterfactuals(images: Tensor, changed: Tensor, before: Sequence[str], after: Sequence[str]) -> Figure:
    """One row per image: original, what would have to be added (red) and taken away (blue), and the result.

    ``images`` and ``changed`` are (N, C, H, W) in [0, 1]; ``before`` and ``after`` say what each is taken for.
    """
    images, changed = images.detach().cpu(), changed.detach().cpu()
    panel = PANEL_INCHES * images.shape[2] / images.shape[3]
    size = (PANEL_INCHES * 3, (panel + 0.48) * len(images) + 0.15)
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, hspace=0.0, wspace=0.0)
    figure = Figure(figsize=size, dpi=110, layout=layout)
    for n, (left, middle, right) in enumerate(figure.subplots(len(images), 3, squeeze=False)):
        change = (changed[n] - images[n]).mean(dim=0)
        largest = float(change.abs().max()) or 1.0
        show_image(left, images[n])
        left.set_title(before[n], fontsize=9, parse_math=False)
        middle.imshow(change.numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest)
        middle.set_axis_off()
        middle.set_title("what would have\nto be different", fontsize=9)
        show_image(right, changed[n])
        right.set_title(after[n], fontsize=9, parse_math=False)
    return figure


def show_noise(axes: Axes, noise: Tensor) -> None:
    """A change (C, H, W) amplified to fill the range around grey, with the factor as its title."""
    largest = float(noise.abs().max())
    gain = 0.5 / largest if largest else 1.0
    show_image(axes, 0.5 + gain * noise)
    axes.set_title(f"noise × {gain:.0f}\nup to {largest * 255:.3g}/255" if largest else "noise:\nnone", fontsize=9)


def draw_robustness(epsilons: Sequence[float], curves: Mapping[str, Tensor], norm: str) -> Figure:
    """Accuracy under attack against ε, a line for each attack in ``curves`` (label -> (E,) in [0, 1])."""
    figure = Figure(figsize=(5.2, 3.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for marker, (label, accuracy) in zip(MARKERS, curves.items()):
        axes.plot(epsilons, [100 * float(a) for a in accuracy], marker=marker, markersize=5, label=label)
    axes.set_xlabel(f"ε in pixel units ({'L∞' if norm == 'linf' else 'L2'} norm)")
    axes.set_ylabel("accuracy under attack (%)")
    axes.set_ylim(-2, 102)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
