"""The test stage of a classifier in figures and pictures."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchmetrics.utilities import dim_zero_cat

from callbacks.figures import PictureCallback, log_figure
from callbacks.report_drawing import draw_calibration, draw_confusion, draw_mistakes, draw_per_class
from callbacks.samples import check_classes, class_names, classify, unpack
from callbacks.training_examples import Examples, training_examples
from interpretability.outputs import logits_of

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson_interval(correct: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """The score interval of a proportion, inside [0, 1] and right near its ends; eq. 10.6 (Wilson 1927)."""
    share = correct / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


class TestReport(PictureCallback):
    """Accuracy with its 95 % interval, precision and recall of each class, calibration, the worst mistakes.

    For any LightningModule that maps images (N, C, H, W) to logits (N, K). Where ``test_step`` returns a
    mapping with ``logits`` they are used, else ``pl_module(x)`` is called once more.

    Args:
        n_worst: how many mistakes to show, those that gave the true class the least probability first.
        n_bins: bins of the calibration error (eq. 10.8).
        n_examples: how many training images stand beside each mistake, of those most like it (eq. 12.4) and as many of
            those that moved the module most towards what it says (eq. 12.5); 0 for none. Needs logits from ``forward``.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    def __init__(self, n_worst: int = 20, n_bins: int = 15, n_examples: int = 0) -> None:
        super().__init__()
        if n_worst < 0 or n_bins < 1:
            raise ValueError(f"n_worst must be at least 0 and n_bins at least 1, not {n_worst} and {n_bins}")
        if n_examples < 0:
            raise ValueError(f"n_examples must be at least 0, not {n_examples}")
        self.n_worst, self.n_bins, self.n_examples = n_worst, n_bins, n_examples
        self._metrics: MetricCollection | None = None
        self._worst: dict[str, Tensor] = {}
        self.latest: tuple[tuple[int, int], tuple[Tensor, Tensor, Tensor]] | None = None  # place; x, probabilities, y

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start empty."""
        self._metrics, self._worst, self.latest = None, {}, None

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in one batch."""
        with self.harmless(trainer, pl_module):
            x, y = unpack(batch)
            known = outputs.get("logits") if isinstance(outputs, Mapping) else None
            logits = classify(pl_module, x) if known is None else logits_of(known)
            check_classes(logits, y)
            probabilities = logits.detach().float().softmax(1)
            if self._metrics is None:
                self._metrics = self._make_metrics(probabilities.shape[1]).to(probabilities.device)
            self._metrics.update(probabilities, y)
            self._keep_worst(x.detach(), probabilities, y)
            self.latest = (batch_idx, dataloader_idx), (x.detach(), probabilities, y)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures, draw the pictures."""
        self.latest = None
        if self._metrics is None:
            return
        with self.harmless(trainer, pl_module):
            metrics = self._metrics.compute()
            absent = metrics["confusion"].sum(1) == 0
            metrics["recall"] = metrics["recall"].masked_fill(absent, math.nan)  # of nothing: not known, not 0
            confidences, hits = confidences_and_hits(self._metrics["calibration"])
            worst = self._gather_worst(trainer)
            names = class_names(trainer, len(metrics["precision"]))
            self._log_metrics(trainer, pl_module, metrics, names)
            interval = wilson_interval(float(metrics["confusion"].trace()), int(metrics["confusion"].sum()))
            examples = self._find_examples(trainer, pl_module, worst)
            self._draw(trainer, metrics, confidences, hits, worst, names, interval, examples)

    def _make_metrics(self, n_classes: int) -> MetricCollection:
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(n_classes, average="micro"),
                "precision": MulticlassPrecision(n_classes, average=None),
                "recall": MulticlassRecall(n_classes, average=None),
                "confusion": MulticlassConfusionMatrix(n_classes),
                "calibration": MulticlassCalibrationError(n_classes, n_bins=self.n_bins),
            }
        )

    def _keep_worst(self, x: Tensor, probabilities: Tensor, y: Tensor) -> None:
        """Keep the ``n_worst`` mistakes of all batches so far, worst first."""
        wrong = probabilities.argmax(1) != y
        new = {"image": x[wrong], "probabilities": probabilities[wrong], "target": y[wrong]}
        if self._worst:
            new = {key: torch.cat([self._worst[key], value]) for key, value in new.items()}
        self._worst = worst_first(new, self.n_worst)

    def _gather_worst(self, trainer: Trainer) -> dict[str, Tensor]:
        """The worst mistakes of all ranks, on the CPU."""
        everyone: list[Any] = [self._worst]
        if trainer.world_size > 1:
            everyone = [None] * trainer.world_size
            mine = {key: value.cpu() for key, value in self._worst.items()}
            torch.distributed.all_gather_object(everyone, mine)
        joined = {key: torch.cat([worst[key].cpu() for worst in everyone]) for key in self._worst}
        return worst_first(joined, self.n_worst)

    def _find_examples(self, trainer: Trainer, pl_module: LightningModule, worst: dict[str, Tensor]) -> Examples | None:
        if not self.n_examples or not worst or not len(worst["target"]) or not trainer.is_global_zero:
            return None
        return training_examples(trainer, pl_module, worst["image"], worst["probabilities"].argmax(1), self.n_examples)

    def _log_metrics(
        self, trainer: Trainer, pl_module: LightningModule, metrics: dict[str, Tensor], names: list[str]
    ) -> None:
        """The summary goes where the module's own metrics go; the many per-class values to the loggers alone."""
        low, high = wilson_interval(float(metrics["confusion"].trace()), int(metrics["confusion"].sum()))
        summary = {"accuracy_low": low, "accuracy_high": high, "calibration_error": float(metrics["calibration"])}
        pl_module.log_dict({f"test/{name}": value for name, value in summary.items()}, sync_dist=True)
        per_class = {
            f"test/{key}/{name}": float(value)
            for key in ("precision", "recall")
            for name, value in zip(names, metrics[key])
            if math.isfinite(value)
        }
        for logger in trainer.loggers:
            logger.log_metrics(per_class, step=trainer.global_step)

    def _draw(
        self,
        trainer: Trainer,
        metrics: dict[str, Tensor],
        confidences: Tensor,
        hits: Tensor,
        worst: dict[str, Tensor],
        names: list[str],
        interval: tuple[float, float],
        examples: Examples | None,
    ) -> None:
        """The four pictures."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        low, high = interval
        title = f"accuracy {float(metrics['accuracy']):.2%}, 95 % interval {low:.2%} to {high:.2%}"
        log_figure(trainer, "test/confusion_matrix", draw_confusion(metrics["confusion"].cpu().numpy(), names, title))
        precision, recall = metrics["precision"].cpu().numpy(), metrics["recall"].cpu().numpy()
        log_figure(trainer, "test/per_class", draw_per_class(precision, recall, names))
        error = float(metrics["calibration"])
        log_figure(trainer, "test/calibration", draw_calibration(confidences.numpy(), hits.numpy(), self.n_bins, error))
        if len(worst["target"]):
            images = worst["image"].float().numpy()
            picture = draw_mistakes(images, worst["probabilities"].numpy(), worst["target"].numpy(), names, examples)
            log_figure(trainer, "test/worst_mistakes", picture)


def confidences_and_hits(calibration: Any) -> tuple[Tensor, Tensor]:
    """Of every tested sample on all ranks: the predicted class's probability, and 1 where it was right."""
    with calibration.sync_context():
        return dim_zero_cat(calibration.confidences).cpu(), dim_zero_cat(calibration.accuracies).cpu()


def worst_first(mistakes: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    """At most ``n`` mistakes, those first that gave their true class the least probability."""
    true_probability = mistakes["probabilities"].gather(1, mistakes["target"][:, None]).squeeze(1)
    order = true_probability.argsort(stable=True)[:n]
    return {key: value[order] for key, value in mistakes.items()}
