"""How large weights and gradients are while training, as scalars and histograms."""

from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from callbacks.figures import PictureCallback, due, tensorboard_writers


class WeightDiagnostics(PictureCallback):
    """Log the norms of gradients and weights, and histograms of the weights.

    For each parameter and in total: ``weights/gradient_norm/…`` and ``weights/norm/…``, which TensorBoard shows
    last. They are taken just before the optimiser steps, in automatic optimisation (before the trainer's
    ``gradient_clip_val`` takes effect) and in manual optimisation (after whatever clipping the module did).
    Histograms go to TensorBoard alone. For the learning rate use Lightning's ``LearningRateMonitor`` beside it.

    Args:
        every_n_steps: how often the norms are logged; None: as often as the trainer logs.
        every_n_epochs: how often the histograms are; None: never.
    """

    def __init__(self, every_n_steps: int | None = None, every_n_epochs: int | None = 1) -> None:
        super().__init__()
        for name, value in {"every_n_steps": every_n_steps, "every_n_epochs": every_n_epochs}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the norms."""
        every = self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not trainer.loggers or not every or trainer.global_step % every:
            return
        with self.harmless(trainer, pl_module):
            parameters = dict(pl_module.named_parameters())
            gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
            scalars = norms("weights/gradient_norm", gradients) | norms("weights/norm", parameters)
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step=trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the histograms."""
        if self.every_n_epochs is None or not trainer.is_global_zero or not due(trainer, self.every_n_epochs):
            return
        with self.harmless(trainer, pl_module):
            for writer in tensorboard_writers(trainer):
                for name, parameter in pl_module.named_parameters():
                    writer.add_histogram(f"weights/{name}", parameter.detach().float().cpu(), trainer.global_step)


@torch.no_grad()
def norms(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """The Euclidean norm of each tensor and of all together, read from the device at once."""
    if not tensors:
        return {}
    each = torch.stack([tensor.detach().float().norm() for tensor in tensors.values()])
    values = torch.cat([each, each.norm()[None]]).tolist()
    return dict(zip([f"{kind}/{name}" for name in [*tensors, "total"]], values))
