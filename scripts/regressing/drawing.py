"""The three pictures of the regression experiment."""

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from regressing.experiment import Experiment, Scores, T, X
from regressing.fits import GRID, Fit
from regressing.selection import Outcome

# Okabe & Ito's colours, told apart with any colour vision
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6B6B6B"
STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "figure.dpi": 120,
    "savefig.facecolor": "white",
}


def describe(outcome: Outcome) -> str:
    """The chosen setting, in a few words."""
    decay, dropout = outcome.setting
    parts = [f"λ = {decay:g}"] * (decay > 0) + [f"p = {dropout:g}"] * (dropout > 0)
    return ", ".join([*parts, f"{outcome.updates:,} updates"])


def draw_regression(outcomes: Sequence[Outcome], fits: Sequence[Fit]) -> Figure:
    """Each variant's function on [0, 1], and the leave-one-out errors side by side."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(13.5, 8), layout="constrained")
        for axis, outcome, fit in zip(axes.flat, outcomes, fits):
            _draw_fit(axis, outcome, fit)
        for axis in axes.flat[len(outcomes) : -1]:
            axis.set_axis_off()
        _draw_errors(axes.flat[-1], outcomes)
        handles = [
            Line2D([], [], marker="o", ls="", color="black", ms=6, label="the eleven points"),
            Line2D([], [], color=BLUE, lw=2, label="fit on all points (mean over seeds)"),
            Patch(color=BLUE, alpha=0.25, label="spread over seeds (5 to 95 %)"),
            Patch(color=GREEN, alpha=0.22, label="Monte-Carlo dropout (5 to 95 %)"),
            Line2D([], [], marker="D", color=ORANGE, mfc="white", ms=5, label="prediction with the point held out"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=10)
        return figure


def _draw_fit(axis: Axes, outcome: Outcome, fit: Fit) -> None:
    grid, x, t = GRID[:, 0].numpy(), X[:, 0].numpy(), T[:, 0].numpy()
    if fit.masked is not None:
        axis.fill_between(grid, *np.percentile(fit.masked, [5, 95], axis=0), color=GREEN, alpha=0.22, lw=0)
    axis.fill_between(grid, *np.percentile(fit.curves, [5, 95], axis=0), color=BLUE, alpha=0.25, lw=0)
    axis.plot(grid, fit.curves.mean(0), color=BLUE, lw=2)
    predictions = t + outcome.held_out
    axis.vlines(x, t, predictions, color=ORANGE, lw=1.2)
    axis.plot(x, predictions, "D", color=ORANGE, mfc="white", ms=5, clip_on=False)
    axis.plot(x, t, "o", color="black", ms=6, zorder=3, clip_on=False)
    axis.set(xlim=(0, 1), ylim=(-1.9, 2.9), xlabel="x", ylabel="t")
    axis.set_title(outcome.variant.name, loc="left")
    note = f"{describe(outcome)}\ntraining MSE {fit.training_mse:.3g}\nleave-one-out MSE {outcome.loo_mse:.3g}"
    axis.text(0.03, 0.97, note, transform=axis.transAxes, va="top", fontsize=10, linespacing=1.4)


def _draw_errors(axis: Axes, outcomes: Sequence[Outcome]) -> None:
    """Honest errors with their intervals, beside the numbers that were selected on."""
    rows = np.arange(len(outcomes))[::-1]
    for row, outcome in zip(rows, outcomes):
        axis.plot(outcome.interval, [row, row], color=BLUE, lw=3, alpha=0.35, solid_capstyle="round")
        axis.plot(outcome.loo_mse, row, "o", color=BLUE, ms=8)
        if len(outcome.variant.settings) > 1 or outcome.variant.stops_early:
            axis.plot(outcome.selected_mse, row, "o", color=GREY, mfc="white", ms=7)
    axis.set_yticks(rows, [outcome.variant.name for outcome in outcomes])
    axis.set(xlabel="leave-one-out MSE", ylim=(-1.7, len(outcomes) - 0.5))
    axis.set_xlim(left=0)
    axis.grid(axis="x", alpha=0.25)
    axis.set_title("which generalises best?", loc="left")
    handles = [
        Line2D([], [], marker="o", ls="", color=BLUE, ms=8, label="honest, with 95 % bootstrap interval"),
        Line2D([], [], marker="o", ls="", color=GREY, mfc="white", ms=7, label="selected on: too hopeful"),
    ]
    axis.legend(handles=handles, loc="lower left", fontsize=9.5)


def draw_learning_curves(experiment: Experiment, outcomes: Sequence[Outcome]) -> Figure:
    """Training and held-out error of each variant's chosen setting, with its stop marked."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(13.5, 7.5), sharex=True, sharey=True, layout="constrained")
        for axis, outcome in zip(axes.flat, outcomes):
            axis.plot(experiment.records, outcome.training, color=BLUE, lw=2)
            axis.plot(experiment.records, outcome.validation, color=ORANGE, lw=2)
            axis.axvline(outcome.updates, color=GREY, ls="--", lw=1.2)
            stop = outcome.validation[outcome.choice.record]
            axis.plot(outcome.updates, stop, "o", color=ORANGE, ms=7, clip_on=False)
            axis.set_title(outcome.variant.name, loc="left")
            box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
            where = {"transform": axis.transAxes, "ha": "right", "va": "top"}
            axis.text(0.96, 0.96, describe(outcome), fontsize=10, bbox=box, **where)
            axis.set(yscale="log", xlim=(0, 1.02 * experiment.updates))
            axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
            axis.xaxis.set_tick_params(labelbottom=True)
            axis.grid(alpha=0.25)
        for axis in axes.flat[len(outcomes) :]:
            axis.set_axis_off()
        handles = [
            Line2D([], [], color=BLUE, lw=2, label="training error (ten seen points)"),
            Line2D([], [], color=ORANGE, lw=2, label="held-out error (leave-one-out)"),
            Line2D([], [], color=GREY, ls="--", lw=1.2, label="where training stops"),
        ]
        axes.flat[-1].legend(handles=handles, loc="center", fontsize=12)
        figure.supxlabel("updates (one on all seen points each)", fontsize=11)
        figure.supylabel("mean squared error", fontsize=11)
        return figure


def draw_selection(experiment: Experiment, scores: Scores, outcomes: Sequence[Outcome]) -> Figure:
    """Leave-one-out error against each hyper-parameter: stop, λ, p, and λ with p."""
    by_seed = scores.held_out.square().mean(-1).numpy()  # (E, C, R)
    decays, dropouts = experiment.weight_decays, experiment.dropouts
    cube = by_seed.reshape(len(by_seed), len(decays), len(dropouts), -1)  # (E, λ, p, R)
    chosen = {outcome.variant.name: outcome for outcome in outcomes}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
        if 0.0 in decays and 0.0 in dropouts:
            at = decays.index(0.0), dropouts.index(0.0)
            _draw_curve(axes[0, 0], experiment.records, cube[:, at[0], at[1]], chosen.get("early stopping"), "updates")
        if 0.0 in dropouts:
            end = cube[-1, :, dropouts.index(0.0)]
            _draw_choice(axes[0, 1], decays, end, chosen.get("weight decay"), 0, "weight decay λ")
        if 0.0 in decays:
            end = cube[-1, decays.index(0.0)]
            _draw_choice(axes[1, 0], dropouts, end, chosen.get("dropout"), 1, "probability of dropout p")
        _draw_grid(axes[1, 1], experiment, cube.mean(-1).min(0), chosen["best combination"])
        for axis in axes.flat[:3]:
            axis.set(ylabel="leave-one-out MSE")
            axis.grid(alpha=0.25)
        figure.suptitle("The errors that the choices were made on; lines are seeds, dots the choice", fontsize=11)
        return figure


def _draw_curve(axis: Axes, x: list[int], values: np.ndarray, outcome: Outcome | None, label: str) -> None:
    axis.plot(x, values, color=BLUE, alpha=0.3, lw=1)
    axis.plot(x, values.mean(1), color=BLUE, lw=2)
    if outcome is not None:
        axis.plot(outcome.updates, outcome.selected_mse, "o", color=ORANGE, ms=9)
    axis.set(xlabel=label, yscale="log", xlim=(x[0], x[-1]))
    axis.set_title("early stopping", loc="left")


def _draw_choice(
    axis: Axes, grid: Sequence[float], values: np.ndarray, outcome: Outcome | None, which: int, label: str
) -> None:
    ticks = np.arange(len(grid))
    axis.plot(ticks, values, color=BLUE, alpha=0.3, lw=1)
    axis.plot(ticks, values.mean(1), "o-", color=BLUE, lw=2, ms=5)
    if outcome is not None:
        axis.plot(grid.index(outcome.setting[which]), outcome.selected_mse, "o", color=ORANGE, ms=9)
    axis.set_xticks(ticks, [f"{value:g}" for value in grid])
    axis.set(xlabel=label)
    axis.set_title(("weight decay", "dropout")[which], loc="left")


def _draw_grid(axis: Axes, experiment: Experiment, errors: np.ndarray, outcome: Outcome) -> None:
    decays, dropouts = experiment.weight_decays, experiment.dropouts
    image = axis.imshow(errors, cmap="viridis_r", aspect="auto")
    middle = (errors.min() + errors.max()) / 2
    for (row, column), value in np.ndenumerate(errors):
        axis.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=9, color="wk"[int(value < middle)])
    row, column = decays.index(outcome.setting[0]), dropouts.index(outcome.setting[1])
    axis.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec=ORANGE, lw=3))
    axis.set_xticks(range(len(dropouts)), [f"{value:g}" for value in dropouts])
    axis.set_yticks(range(len(decays)), [f"{value:g}" for value in decays])
    axis.set(xlabel="probability of dropout p", ylabel="weight decay λ")
    axis.set_title("combination, each at its best stop", loc="left")
    axis.figure.colorbar(image, ax=axis, label="leave-one-out MSE")
