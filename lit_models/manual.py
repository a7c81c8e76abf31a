"""What `LitMLP` and `LitCNN` share: training by gradients that formulas have computed, without autograd."""

import math
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lit_models import checks
from lit_models.optimizers import average_over_ranks
from lit_models.schedules import step_schedules


class ManualTraining(LightningModule):
    """From gradients to an update, by manual optimisation.

    Its hyperparameters ``accumulate_grad_batches``, ``gradient_clip_val`` and ``gradient_clip_algorithm`` take the
    place of the Trainer's options of these names. A model that sets ``automatic_optimization`` is left alone.
    """

    def _parameters_in_order(self) -> list[Tensor]:
        """The parameters that `set_gradients` gets gradients for, in the order of these."""
        raise NotImplementedError

    def configure_callbacks(self) -> list:
        """No callbacks, but the first hook that sees the trainer: refuse here what cannot work."""
        if not self.automatic_optimization:
            checks.trainer(self.trainer, type(self).__name__)
        return []

    def set_gradients(self, gradients: dict[str, Tensor]) -> None:
        """Put the formulas' results into ``.grad``, in the parameters' dtype; frozen parameters get none."""
        for p, gradient in zip(self._parameters_in_order(), gradients.values()):
            if p.requires_grad:
                p.grad = gradient if gradient.dtype == p.dtype else gradient.to(p.dtype)

    def _descend(self, loss: Tensor, gradients: dict[str, Tensor], t: Tensor, batch_idx: int) -> float:
        """The update for a batch of targets ``t``; its loss as a number.

        Raises:
            DivergedError: the loss is not finite. Nothing has been updated.
        """
        value = loss.item()
        if not math.isfinite(value):
            checks.finite(t, "targets")
            raise checks.diverged(value, self.global_step)
        self._update(gradients, batch_idx)
        return value

    def _update(self, gradients: dict[str, Tensor], batch_idx: int) -> None:
        """Collect (eq. 2.13), average over ranks (eq. 1.21), clip (eq. 2.14), step: each only where it is asked for."""
        h: Any = self.hparams
        trainer = self.trainer
        optimizer: Any = self.optimizers()
        if h.accumulate_grad_batches == 1:
            self.set_gradients(gradients)
        else:
            self._accumulate(gradients)
            if (batch_idx + 1) % h.accumulate_grad_batches and not self._ends_epoch(batch_idx):
                return
        if trainer.world_size > 1:
            average_over_ranks(self._parameters_in_order(), trainer.strategy)
        if h.gradient_clip_val is not None:
            by_norm = h.gradient_clip_algorithm == "norm"
            clip: Any = nn.utils.clip_grad_norm_ if by_norm else nn.utils.clip_grad_value_
            clip(self._parameters_in_order(), h.gradient_clip_val)
        optimizer.step()
        if h.accumulate_grad_batches > 1:
            optimizer.zero_grad()
        if trainer.lr_scheduler_configs:
            step_schedules(trainer.lr_scheduler_configs, "step", trainer.global_step)

    def _accumulate(self, gradients: dict[str, Tensor]) -> None:
        """Add this batch's share of the average gradient to ``.grad``."""
        h: Any = self.hparams
        for p, gradient in zip(self._parameters_in_order(), gradients.values()):
            if p.requires_grad:
                share = gradient.to(p.dtype) / h.accumulate_grad_batches
                p.grad = share if p.grad is None else p.grad + share

    def _ends_epoch(self, batch_idx: int) -> bool:
        return self.trainer.is_last_batch or batch_idx + 1 == self.trainer.num_training_batches

    def on_train_epoch_end(self) -> None:
        """Advance schedules that count epochs; refuse to let weights that overflowed reach a checkpoint."""
        if not self.automatic_optimization:
            step_schedules(self.trainer.lr_scheduler_configs, "epoch", self.current_epoch + 1)
            checks.finite_weights(self.parameters(), self.global_step)
