"""What a worker process does: a trial, or a run of the chosen setting; both are built as ``train.py`` builds them."""

import os
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import RegressionPlot, SaliencySnapshots, TSNELogger, WeightDiagnostics
from console import UserError, nearest
from training.arguments import Arguments
from training.results import log_hyperparameters
from training.run_directory import RUN_DIRECTORY
from training.session import build, fit_and_test
from tuning.workers import Report

# pictures of training, which would take longer than a trial
WATCHERS: tuple[type[Callback], ...] = (RegressionPlot, SaliencySnapshots, TSNELogger, WeightDiagnostics)
QUIET = [
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.devices=1",
    "--trainer.num_nodes=1",
]


class ReportMetric(Callback):
    """Reports the monitored metric after every validation, and stops the training that is told to stop.

    Args:
        monitor: key of a logged metric.
        report: takes its value, says whether to stop.
    """

    def __init__(self, monitor: str, report: Report):
        self.monitor, self.report = monitor, report
        self.checks = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One value a validation."""
        if trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            raise nearest(self.monitor, trainer.callback_metrics, "metric")
        self.checks += 1
        if self.report(float(trainer.callback_metrics[self.monitor])):
            trainer.should_stop = True


def run_trial(report: Report, arguments: Arguments, monitor: str) -> float:
    """Seconds of training with these arguments, reporting ``monitor``; no folder, logger, checkpoints or test."""
    arguments = Arguments(arguments.experiment, arguments.configs, [*arguments.rest, *QUIET])
    cli = build(arguments, write_run=False, without=(*WATCHERS, ModelCheckpoint))
    watch = ReportMetric(monitor, report)
    cli.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    start = time.monotonic()
    try:
        cli.trainer.fit(cli.model, cli.datamodule)
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if not watch.checks:
        raise UserError(f"there was no validation, so no {monitor}")
    return time.monotonic() - start


def run_chosen(report: Report, arguments: Arguments, monitor: str) -> dict[str, Any]:
    """An ordinary run, with its folder, and the test set read once by its best checkpoint; its metrics and folder."""
    os.environ.pop(RUN_DIRECTORY, None)  # a folder of its own, not that of this process's former run
    cli = build(Arguments(arguments.experiment, arguments.configs, [*arguments.rest, *QUIET]), without=WATCHERS)
    cli.trainer.callbacks.append(ReportMetric(monitor, report))  # type: ignore[attr-defined]
    cli.save_config()
    metrics, _ = fit_and_test(cli)
    assert cli.folder is not None
    log_hyperparameters(cli.trainer, metrics, cli.folder)
    return {"metrics": metrics, "run": str(cli.folder)}
