"""Pictures of a search: which options matter, how it went, and the metric over each option."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from tuning.settings import Experiment

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8c8c8c"  # told apart by the colour-blind too
MIN_TRIALS = 4  # for importances
COLUMNS = 3


def draw(study: Study, experiment: Experiment) -> dict[str, Figure]:
    """``history``, ``slices`` and, from four complete trials, ``importance``; none without a complete trial."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return {}
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figures = {"history": draw_history(trials, experiment), "slices": draw_slices(trials, experiment)}
        if len(complete) >= MIN_TRIALS:
            figures["importance"] = draw_importance(study)
    return figures


def draw_importance(study: Study) -> Figure:
    """A bar an option: the share of the metric's variation that it accounts for among the better trials."""
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    names, shares = list(found)[::-1], list(found.values())[::-1]
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(names, shares, color=BLUE)
    for row, share in enumerate(shares):
        axes.text(share + 0.01, row, f"{share:.2f}", va="center")
    axes.set(xlim=(0, max(shares) * 1.15 + 0.02), xlabel="importance (PED-ANOVA; sums to 1)", title="What matters")
    return figure


def draw_history(trials: Sequence[FrozenTrial], experiment: Experiment) -> Figure:
    """The value of each trial in the order of their numbers, and the best so far."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    _scatter(axes, trials, [trial.number for trial in trials])
    complete = sorted((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: t.number)
    best = np.minimum.accumulate if experiment.mode == "min" else np.maximum.accumulate
    axes.step(
        [t.number for t in complete], best([t.value for t in complete]), where="post", color=ORANGE, label="best so far"
    )
    own = experiment.own_setting()
    for trial in complete:
        if trial.params == own:
            label = "the experiment's own setting"
            axes.plot(trial.number, trial.value, "o", ms=12, mfc="none", mec=GREY, mew=1.5, label=label)
            break
    _scale_values(axes, trials)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="trial", ylabel=experiment.monitor, title="How the search went")
    axes.legend(frameon=False)
    return figure


def draw_slices(trials: Sequence[FrozenTrial], experiment: Experiment) -> Figure:
    """A panel an option: the metric over its values, later trials darker."""
    columns = min(COLUMNS, len(experiment.space))
    rows = math.ceil(len(experiment.space) / columns)
    figure = Figure(figsize=(3.6 * columns + 0.8, 3 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    dots = None
    for axes, (name, distribution) in zip(panels.flat, experiment.space.items()):
        dots = _scatter(axes, trials, _positions(axes, trials, name, distribution), coloured=True) or dots
        axes.set_xlabel(name)
        _scale_values(axes, trials)
    figure.suptitle("The metric over each option")
    for axes in panels[:, 0]:
        axes.set_ylabel(experiment.monitor)
    for axes in list(panels.flat)[len(experiment.space) :]:
        axes.set_axis_off()
    if dots is not None:
        figure.colorbar(dots, ax=panels, label="trial", shrink=0.8, ticks=MaxNLocator(integer=True))
    if any(trial.state == TrialState.PRUNED for trial in trials):
        panels.flat[0].legend(frameon=False, fontsize=8)
    return figure


def _positions(axes: Axes, trials: Sequence[FrozenTrial], name: str, distribution: BaseDistribution) -> list:
    """Where a trial stands on the option's axis, which is set up for its kind."""
    if isinstance(distribution, CategoricalDistribution):
        labels = [str(choice) for choice in distribution.choices]
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        return [distribution.choices.index(trial.params[name]) for trial in trials]
    if getattr(distribution, "log", False):
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
    return [trial.params[name] for trial in trials]


def _scatter(axes: Axes, trials: Sequence[FrozenTrial], places: Sequence[float], coloured: bool = False):
    """Dots for complete trials, crosses for pruned ones at their last value; the dots."""
    dots = None
    for state, marker, label in ((TrialState.PRUNED, "x", "pruned"), (TrialState.COMPLETE, "o", "complete")):
        chosen = [(place, _shown_value(t), t.number) for place, t in zip(places, trials) if t.state == state]
        if not chosen:
            continue
        x, y, numbers = zip(*chosen)
        if coloured and state == TrialState.COMPLETE:
            dots = axes.scatter(x, y, c=numbers, cmap="viridis_r", marker=marker, s=28, label=label, zorder=3)
        else:
            axes.scatter(x, y, color=BLUE if state == TrialState.COMPLETE else GREY, marker=marker, s=28, label=label)
    return dots


def _shown_value(trial: FrozenTrial) -> float:
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return trial.value
    return trial.intermediate_values[max(trial.intermediate_values)]


def _scale_values(axes: Axes, trials: Sequence[FrozenTrial]) -> None:
    """A logarithmic axis where values spread over more than a factor of eight."""
    values = [_shown_value(trial) for trial in trials]
    if min(values) > 0 and max(values) / min(values) > 8:
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)


def _plain_ticks(axis: Axis) -> None:
    """0.01, 0.02, 0.05, 0.1, … instead of powers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
