"""The end of a run: a short table, where everything lies, and how to look at it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from training.cli import settings_in

RESULT_STAGES = ("test", "val", "train")


def results_table(metrics: dict[str, float]) -> str:
    """Metrics under their log keys, those of the test stage first, a line each: ``test/accuracy 0.9912``."""
    shown = [key for stage in RESULT_STAGES for key in sorted(metrics) if key.startswith(f"{stage}/")]
    shown = [key for key in shown if not key.endswith("_step")]
    width = max((len(key) for key in shown), default=0)
    return "\n".join(f"{key:<{width}} {in_digits(metrics[key])}" for key in shown)


def in_digits(value: float) -> str:
    """Four decimals, or an exponent where they would show nothing."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.2e}"


def log_hyperparameters(trainer: Trainer, metrics: dict[str, float], folder: Path) -> None:
    """The settings in the run's ``folder`` beside final metrics in TensorBoard's HParams tab."""
    settings = settings_in(folder / "config.yaml")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            results = {k: v for k, v in metrics.items() if k.startswith(RESULT_STAGES) and not k.endswith("_step")}
            logger.log_hyperparams(hyperparameters(folder.parent.name, settings), results, step=trainer.global_step)
            logger.experiment.add_custom_scalars(layout(results))
            logger.finalize("success")


def hyperparameters(experiment: str, settings: dict[str, Any]) -> dict[str, bool | int | float | str]:
    """The settings of model and data under the names of the command line, as in a search, with experiment and seed."""
    found = {"experiment": experiment, "seed": settings.get("seed_everything")}
    for part in ("model", "data"):
        options = (settings.get(part) or {}).get("init_args") or {}
        found |= {f"{part}.{name}": value for name, value in options.items()}
    return {name: value for name, value in found.items() if isinstance(value, bool | int | float | str)}


def layout(results: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """A card for each quantity with all its stages: TensorBoard's custom scalars."""
    quantities = sorted({key.partition("/")[2] for key in results if key.startswith(("train/", "val/"))})
    return {"results": {name: ["Multiline", [f"{stage}/{name}" for stage in RESULT_STAGES]] for name in quantities}}
