"""The callback that puts all that one would look at after a run into one file."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.figures import PictureCallback, run_directory, tensorboard_directories
from callbacks.ranks import of_all_ranks
from callbacks.report import material, surroundings
from callbacks.report.history import History
from callbacks.report.tested import Tested, small
from callbacks.samples import check_classes, class_names, classify, explained, unpack
from callbacks.test_report import TestReport, wilson_interval
from interpretability.attribution import Saliency
from interpretability.outputs import logits_of
from interpretability.page import render_page, write_page
from interpretability.page.encoding import overlay, picture

HERE = Path(__file__).parent
SCRIPTS = ("charts.js", "report.js")
MOST_BYTES = 6_000_000
POINTS_AND_PICTURES = ((1000, 700, 20), (600, 300, 12), (300, 120, 6), (100, 0, 2))  # less and less, until it fits
RESULT = r"test.*(?<!_low)(?<!_high)$"  # the interval is shown as such
LARGEST_MAP = 112  # pixels a side of a mistake and its map


class RunReport(PictureCallback):
    """Write ``report.html`` into the run's folder: curves, maps, mistakes and settings in one file without network.

    It shows what there is: learning curves of all that is logged, the layouts of ``TSNELogger``, the maps of
    ``SaliencySnapshots``, the fits of ``RegressionPlot``, and of the test stage the confusion matrix with its images,
    calibration, and the worst mistakes with their saliency. List it behind those callbacks. It is written when training
    ends, after testing, and where training is interrupted.

    Args:
        title: what the page is called; by default the module and the run's folder.
        command: how the run can be made again, as a person would type it.
    """

    def __init__(self, title: str | None = None, command: str | None = None) -> None:
        super().__init__()
        self.title, self.command = title, command
        self.path: Path | None = None
        self.history = History()
        self._tested: Tested | None = None
        self._mistakes: list[dict[str, Any]] = []
        self._seconds, self._since = 0.0, 0.0
        self._ended, self._stage = "", "fit"

    def state_dict(self) -> dict[str, Any]:
        """The curves and the time so far, so that a resumed run's report begins at its start."""
        return {"history": self.history.state(), "seconds": self._seconds_so_far()}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember what is about to happen: testing loads a checkpoint, too, perhaps an early one of this run."""
        self._stage = stage

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the resumed run's curves; a test keeps those of the training before it."""
        if self._stage != "fit" and self.history.metrics:
            return
        self.history.restore(state_dict["history"])
        self._seconds = float(state_dict["seconds"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._since, self._ended = time.monotonic(), "training"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step's loss, read from the device later."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1 and trainer.is_global_zero:
            done = (batch_idx + 1) / max(trainer.num_training_batches, 1)  # nothing of an endless loader
            self.history.losses.add(trainer.current_epoch + done, loss.detach())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch's metrics."""
        with self.harmless(trainer, pl_module):
            self.history.record(trainer.current_epoch, trainer.callback_metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._seconds, self._since, self._ended = self._seconds_so_far(), 0.0, "trained"

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start empty."""
        self._tested, self._mistakes = None, []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in one batch; of a module that is no classifier, nothing."""
        with self.harmless(trainer, pl_module):
            shown = self._shown(trainer, pl_module, outputs, batch, (batch_idx, dataloader_idx))
            if shown is not None:
                self._tested = self._tested or Tested()
                self._tested.add(*shown)

    def _shown(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, place: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Images, probabilities and labels of a batch: those that a test report has seen, else seen here."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, TestReport) and callback.latest is not None and callback.latest[0] == place:
                return callback.latest[1]
        x, y = unpack(batch)
        if y.ndim != 1 or y.is_floating_point():
            return None
        known = outputs.get("logits") if isinstance(outputs, Mapping) else None
        logits = classify(pl_module, x) if known is None else logits_of(known)
        check_classes(logits, y)
        return x.detach(), logits.detach().float().softmax(1), y

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the ranks together; explain the worst mistakes while the module is at hand."""
        everyone = of_all_ranks(trainer, self._tested)
        if trainer.world_size > 1 and trainer.is_global_zero and any(everyone):
            self._tested = Tested()
            for one in everyone:
                if one is not None:
                    self._tested.join(one)
        if self._tested is not None and self._tested.worst and trainer.is_global_zero:
            with self.harmless(trainer, pl_module):
                self._mistakes = mistakes(pl_module, self._tested, class_names(trainer, self._tested.classes))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The test's metrics."""
        with self.harmless(trainer, pl_module):
            metrics = trainer.callback_metrics
            self.history.tested = {key: float(value) for key, value in metrics.items() if float(value) == float(value)}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what there is."""
        if self._since:
            self._seconds, self._since = self._seconds_so_far(), 0.0
        self._ended = "interrupted" if isinstance(exception, KeyboardInterrupt | SystemExit) else "failed"
        self._write(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write, once every callback has done its part."""
        if stage in ("fit", "test"):
            self._write(trainer, pl_module)

    def _seconds_so_far(self) -> float:
        return self._seconds + (time.monotonic() - self._since if self._since else 0.0)

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        with self.harmless(trainer, pl_module):
            if not self.history.metrics and not self.history.losses.points and self._tested is None:
                return  # nothing was done
            for points, pictures, frames in POINTS_AND_PICTURES:
                html = self.render(trainer, pl_module, points, pictures, frames)
                if len(html.encode()) <= MOST_BYTES:
                    break
            self.path = write_page(html, run_directory(trainer) / "report.html")

    def render(
        self, trainer: Trainer, pl_module: LightningModule, points: int = 1000, pictures: int = 700, frames: int = 20
    ) -> str:
        """The page, with at most so many points of a layout, pictures of a matrix and epochs of saliency."""
        directory = run_directory(trainer)
        sprites = [place / "projector" for place in (*tensorboard_directories(trainer), directory)]
        monitor, mode = monitored(trainer, self.history)
        data = {
            "title": self.title or type(pl_module).__name__,
            "run": "/".join(directory.parts[-2:]),
            "state": self._ended,
            "facts": surroundings.facts(trainer, pl_module, self._seconds_so_far()),
            "versions": surroundings.versions(),
            "settings": surroundings.settings(directory, pl_module),
            "command": self.command,
            "curves": self.history.curves(),
            "best": self.history.best(monitor, mode),
            "tested": {key: self.history.tested[key] for key in self.history.tested if re.match(RESULT, key)},
            "layouts": material.layouts(directory, sprites, points),
            "saliency": material.saliency(directory, frames),
            "fits": material.fits(directory),
            "test": tested_data(self._tested, class_names(trainer, self._tested.classes), pictures)
            if self._tested
            else None,
            "mistakes": self._mistakes,
        }
        return render_page(HERE / "report.html", data, [HERE / name for name in SCRIPTS], [HERE / "report.css"])


def monitored(trainer: Trainer, history: History) -> tuple[str | None, str]:
    """What decides which epoch is best, and which way: a checkpoint's or an early stopping's monitor, else the loss."""
    for callback in [*trainer.checkpoint_callbacks, *trainer.callbacks]:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor in history.metrics:
            return monitor, str(getattr(callback, "mode", "min"))
    names = ("val/loss", "val_loss", "valid_loss", "validation_loss")
    return next((name for name in names if name in history.metrics), None), "min"


def tested_data(tested: Tested, names: list[str], most_pictures: int) -> dict[str, Any]:
    """The test stage as plain data."""
    images, index = tested.pictures(most_pictures)
    counts = tested.cell_counts()
    n, right = len(tested), sum(count for label, predicted, count in counts if label == predicted)
    low, high = wilson_interval(right, n)
    rows = tested.calibration()
    error = sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / n
    return {
        "classes": names,
        "count": n,
        "accuracy": right / n,
        "interval": [low, high],
        "cells": counts,
        "pictures": material.sheet_of(images),
        "where": index,
        "calibration": rows,
        "calibration_error": error,
    }


def mistakes(pl_module: LightningModule, tested: Tested, names: list[str]) -> list[dict[str, Any]]:
    """The worst mistakes: the image, and what speaks for the true class and for the one that was predicted."""
    pl_module.eval()
    shape = tested.worst[0][4].shape
    worst = [one for one in tested.worst if one[4].shape == shape]
    x = torch.stack([image for *_, image in worst]).to(pl_module.device)
    with torch.no_grad():
        model = explained(pl_module, pl_module(x[:1]))
    maps = []
    for which in (1, 2):
        target = torch.tensor([one[which] for one in worst], device=x.device)
        values = Saliency(model)(x, target).abs().amax(1)
        scale = values.flatten(1).quantile(0.99, dim=1)[:, None, None].clamp(min=1e-30)
        maps.append(small((values / scale).clamp(max=1)[:, None], LARGEST_MAP)[:, 0])
    shown = small(x, LARGEST_MAP)
    return [
        {
            "picture": picture(shown[n]),
            "label": names[label],
            "predicted": names[predicted],
            "p_true": true,
            "p_predicted": confidence,
            "for_true": overlay(maps[0][n], material.NEGATIVE, material.NEGATIVE),
            "for_predicted": overlay(maps[1][n], material.POSITIVE, material.POSITIVE),
        }
        for n, (true, label, predicted, confidence, _) in enumerate(worst)
    ]
