"""Metrics of an epoch that was cut short: a resumed run goes on with its means, not with the rest's alone."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.ranks import of_all_ranks

Accumulated = dict[str, tuple[Tensor, Tensor]]  # log key → sum of value · batch size, sum of batch sizes


def logged_means(trainer: Trainer) -> dict[str, Any]:
    """What the training steps of this epoch have logged with ``on_epoch=True``, where its mean is wanted."""
    results = trainer.fit_loop.epoch_loop._results
    return {key: m for key, m in results.items() if m.is_tensor and m.meta.on_epoch and m.meta.is_mean_reduction}


class EpochMeans(Callback):
    """Saves with a checkpoint from within an epoch what Lightning has summed up of it, and adds it after a resume.

    Lightning starts its sums anew, so that ``train/loss`` of a resumed epoch, and what is monitored by it,
    would be those of its last part.
    """

    def __init__(self) -> None:
        self._to_add: Accumulated = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Every rank's sums; none where the epoch is over."""
        sums: Accumulated = {}
        if trainer.training and not trainer.fit_loop.epoch_loop.done:
            sums = {key: (m.value.cpu(), m.cumulated_batch_size.cpu()) for key, m in logged_means(trainer).items()}
        checkpoint["epoch_means"] = of_all_ranks(trainer, sums)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the sums until there is something to add them to."""
        sums = checkpoint.get("epoch_means", [])
        self._to_add = sums[trainer.global_rank] if len(sums) == trainer.world_size else {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """After the first batch, when the metrics are known by name again."""
        if self._to_add:
            for key, metric in logged_means(trainer).items():
                value, size = self._to_add.get(key, (torch.tensor(0.0), torch.tensor(0)))
                metric.value = metric.value + value.to(metric.value)
                metric.cumulated_batch_size = metric.cumulated_batch_size + size.to(metric.cumulated_batch_size)
            self._to_add = {}
