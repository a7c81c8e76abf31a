"""The table, the pictures and TensorBoard's copy of both."""

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from interpretability.whole_files import whole_file
from regressing.experiment import Experiment
from regressing.fits import Fit
from regressing.selection import Outcome

COLUMNS = (
    "variant",
    "weight_decay",
    "dropout",
    "updates",
    "training_mse",
    "loo_mse",
    "loo_low",
    "loo_high",
    "selected_loo_mse",
    "weight_norm",
    "seconds",
)


def table(outcomes: Sequence[Outcome], fits: Sequence[Fit]) -> list[dict[str, object]]:
    """A row for each variant; ``selected_loo_mse`` is the score that the choice was made on, too hopeful."""
    rows = []
    for outcome, fit in zip(outcomes, fits):
        decay, dropout = outcome.setting
        free = len(outcome.variant.settings) > 1 or outcome.variant.stops_early
        values = (
            outcome.variant.name,
            f"{decay:g}",
            f"{dropout:g}",
            outcome.updates,
            f"{fit.training_mse:.5f}",
            f"{outcome.loo_mse:.4f}",
            f"{outcome.interval[0]:.4f}",
            f"{outcome.interval[1]:.4f}",
            f"{outcome.selected_mse:.4f}" if free else "",
            f"{fit.weight_norm:.2f}",
            f"{outcome.seconds:.1f}",
        )
        rows.append(dict(zip(COLUMNS, values)))
    return rows


def print_table(rows: Sequence[dict[str, object]]) -> None:
    """The table as aligned text."""
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in COLUMNS}
    for row in ({name: name for name in COLUMNS}, *rows):
        first, *rest = (f"{row[name]:>{width}}" for name, width in widths.items())
        print("  ".join([f"{first.strip():<{len(first)}}", *rest]))


def write_table(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """The table as CSV, whole or not at all."""
    with whole_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def write_tensorboard(
    folder: Path,
    experiment: Experiment,
    outcomes: Sequence[Outcome],
    rows: Sequence[dict[str, object]],
    figures: dict[str, Figure],
) -> None:
    """Learning curves as scalars, the figures, and the table as text; a former run's events are replaced."""
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for outcome in outcomes:
            name = outcome.variant.name.replace(" ", "_")
            for step, training, validation in zip(experiment.records, outcome.training, outcome.validation):
                writer.add_scalar(f"{name}/train_mse", training, step)
                writer.add_scalar(f"{name}/loo_mse", validation, step)
        for name, figure in figures.items():
            writer.add_figure(name, figure, close=False)
        lines = [" | ".join(map(str, row.values())) for row in rows]
        writer.add_text("table", "\n".join([" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS), *lines]))
    for figure in figures.values():
        plt.close(figure)
