"""A small convolutional network: pixels in, logits out, every stage reachable by its name."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_models import checks, functional, network, operations
from lit_models.cnn_options import Clipping, Gradients, Schedule, check_options, per_stage
from lit_models.manual import ManualTraining
from lit_models.optimizers import AdamW
from lit_models.schedules import make_schedule
from lit_models.stages import Downsampling, Padding, conv_stage, side_after


class LitCNN(ManualTraining):
    """``stages.0 … stages.S−1`` → ``features`` → ``head``; images (N, C, H, W) in [0, 1] to logits (N, K).

    Args:
        input_shape: (C, H, W) of one image.
        num_outputs: the number of classes K.
        channels: output channels of each stage; every stage halves height and width.
        kernel_size: side of the convolutions; odd.
        padding: ``same`` keeps the size under a convolution, ``valid`` loses its border and is cheaper.
        convs_per_stage: convolutions before each halving, one number or one a stage.
        downsampling: ``pool`` halves by the maximum, ``convolution`` by one more, of 5×5 and stride 2.
        hidden: width of the penultimate layer, what ``embed`` returns.
        batch_norm: normalise after each convolution.
        dropout: probability of dropping a penultimate feature while training.
        stage_dropout: probability of dropping an activation behind a stage while training.
        label_smoothing: share of the target spread over all classes while training (eq. 1.26).
        weight_decay: decoupled decay of AdamW (Loshchilov & Hutter 2019).
        learning_rate: the peak of the schedule.
        betas: decay rates of AdamW's two moments.
        schedule: ``one_cycle`` (Smith & Topin 2018) over the whole run, or ``constant``.
        mean, std: normalisation inside ``forward``, one number or one a channel.
        gradients: ``autograd``, or ``explicit``: by the formulas of `lit_models.functional` and our own AdamW.
        gradient_clip_val, gradient_clip_algorithm: with explicit gradients, clip by global norm, or each by value.
        accumulate_grad_batches: with explicit gradients, average those of so many batches into one update.

    Raises:
        ValueError: an option out of range, or more stages than the image can be halved; the option is named.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        num_outputs: int = 10,
        channels: Sequence[int] = (24, 32),
        kernel_size: int = 5,
        padding: Padding = "same",
        convs_per_stage: int | Sequence[int] = 1,
        downsampling: Downsampling = "pool",
        hidden: int = 256,
        batch_norm: bool = False,
        dropout: float = 0.0,
        stage_dropout: float = 0.0,
        label_smoothing: float = 0.0,
        weight_decay: float = 0.0,
        learning_rate: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        schedule: Schedule = "one_cycle",
        mean: float | Sequence[float] = 0.1307,
        std: float | Sequence[float] = 0.3081,
        gradients: Gradients = "autograd",
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Clipping = "norm",
        accumulate_grad_batches: int = 1,
    ):
        super().__init__()
        self.save_hyperparameters()
        check_options(self.hparams)
        self.explicit_gradients = gradients == "explicit"  # for explanations too
        self.automatic_optimization = not self.explicit_gradients
        depth, *sides = input_shape
        convs = per_stage(convs_per_stage, channels)
        sides = [side_after(side, convs, kernel_size, padding, downsampling) for side in sides]
        if not channels or min(sides) < 1:
            height, width = input_shape[1:]
            raise ValueError(f"channels: {len(channels)} stages do not fit images of {height}×{width}")
        self.register_buffer("mean", torch.as_tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.as_tensor(std).view(-1, 1, 1), persistent=False)
        self.stages = nn.Sequential(
            *(
                conv_stage(inputs, outputs, kernel_size, count, padding, downsampling, batch_norm, stage_dropout)
                for inputs, outputs, count in zip([depth, *channels], channels, convs)
            )
        )
        flat = channels[-1] * math.prod(sides)
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, num_outputs)
        self.to(memory_format=torch.channels_last)

    @property  # type: ignore[misc]
    def example_input_array(self) -> Tensor:
        """An empty image of the model's dtype, for the summary's sizes."""
        return torch.zeros(1, *self.hparams["input_shape"], dtype=self.mean.dtype)

    def embed(self, x: Tensor) -> Tensor:
        """The penultimate features (N, hidden) of images (N, C, H, W) in [0, 1]."""
        return self.features(self.stages(self._normalized(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        return self.head(self.dropout(self.embed(x)))

    def _normalized(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    # --- the same network by formulas ---------------------------------------------------------------------

    def loss_and_gradients(self, x: Tensor, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss and its gradient for each parameter's name, by the explicit formulas (eq. 1.17).

        Dropout and batch norm follow the mode: while training, masks are drawn and the running statistics move, as in
        a forward pass. Raises ValueError where ``x`` or ``t`` does not fit, or a module has no formula.
        """
        loss, gradients, _ = self._formulas(x, t)
        return loss, gradients

    def input_gradient(self, x: Tensor, target: Any = None) -> Tensor:
        """∂score/∂x (N, C, H, W) by the same formulas, as in eval mode (eq. 1.18).

        ``target`` is a class, a LongTensor (N,), a callable logits -> (N,), or None for the predicted class.
        """
        checks.input_shape(x, tuple(self.hparams["input_shape"]))
        dx = operations.score_input_gradient(
            self._links(), self._normalized(x), lambda y: network.score_gradient(y, target)
        )
        return dx / self.std  # eq. 1.20

    def _formulas(self, x: Tensor, t: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        h = self.hparams
        checks.batch(x, t, tuple(h["input_shape"]), h["num_outputs"], "cross_entropy")
        links = self._links()
        with torch.no_grad():
            logits, caches = operations.chain_forward(links, self._normalized(x))
            logits = logits.to(self.head.weight.dtype)  # no loss in half precision
            loss, cache = functional.smoothed_cross_entropy_forward(logits, t, h["label_smoothing"])
            dy = functional.smoothed_cross_entropy_backward(cache)
            return loss, operations.chain_backward(dy, links, caches), logits

    def _links(self) -> list[operations.Link]:
        """The modules that `forward` calls, each with its formulas."""
        for name in ("embed", "forward"):
            if getattr(type(self), name) is not getattr(LitCNN, name):
                raise ValueError(f"{type(self).__name__}.{name} is not LitCNN's, of which alone the formulas know")
        return operations.chain((name, getattr(self, name)) for name in ("stages", "features", "dropout", "head"))

    def _parameters_in_order(self) -> list[Tensor]:
        return [p for link in self._links() for p in link.module.parameters(recurse=False)]

    def on_fit_start(self) -> None:
        """With explicit gradients: refuse modules that have no formula, or do not fit, before the first batch."""
        if not self.automatic_optimization:
            with torch.no_grad():
                image = self.example_input_array.to(self.device)
                operations.chain_forward(self._links(), self._normalized(image), evaluate=True)

    # --- training, validation and test --------------------------------------------------------------------

    def _is_shown(self, batch_idx: int) -> bool:
        """Whether a logger takes this training step's loss, or it is the first or last of the epoch.

        Logging each one would be an exchange among the ranks, and a few per cent of the time of a small network's step.
        """
        trainer: Any = self.trainer
        every = trainer.log_every_n_steps
        return batch_idx == 0 or trainer.is_last_batch or (every > 0 and (trainer.global_step + 1) % every == 0)

    def _step(self, batch: tuple[Tensor, Tensor], stage: str, shown: bool = True) -> Tensor:
        x, t = batch
        logits = self(x).to(self.head.weight.dtype)  # no loss in half precision
        smoothing = self.hparams["label_smoothing"] if stage == "train" else 0.0
        loss = F.cross_entropy(logits, t, label_smoothing=smoothing)
        self._log_step(stage, loss, logits, t, shown)
        return loss

    def _log_step(self, stage: str, loss: Tensor, logits: Tensor, t: Tensor, shown: bool) -> None:
        accuracy = (logits.argmax(dim=1) == t).float().mean()
        size: Any = float(len(t))  # Lightning's mean of integers over ranks would be rounded down
        if shown:
            self.log(f"{stage}/loss", loss, prog_bar=True, batch_size=size, sync_dist=True)
        self.log(
            f"{stage}/accuracy",
            accuracy,
            prog_bar=stage != "train",
            on_step=False,
            on_epoch=True,
            batch_size=size,
            sync_dist=True,
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The batch's mean cross-entropy; logs ``train/loss`` of this step and ``train/accuracy`` of the epoch.

        With explicit gradients it makes the update too.
        """
        shown = self._is_shown(batch_idx)
        if self.automatic_optimization:
            return self._step(batch, "train", shown)
        x, t = batch
        checks.finite(x, "inputs")
        loss, gradients, logits = self._formulas(x, t)
        self._descend(loss, gradients, t, batch_idx)
        self._log_step("train", loss, logits, t, shown)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs ``val/loss`` and ``val/accuracy``."""
        self._step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Logs ``test/loss`` and ``test/accuracy``."""
        self._step(batch, "test")

    def configure_optimizers(self) -> Any:
        """AdamW under the chosen schedule, stepped after every batch; our own AdamW with explicit gradients."""
        h: Any = self.hparams
        make: Any = partial(torch.optim.AdamW, fused=True) if self.automatic_optimization else AdamW
        optimizer = make(self.parameters(), h.learning_rate, tuple(h.betas), weight_decay=h.weight_decay)
        if h.schedule == "constant":
            return optimizer
        every = self.trainer.accumulate_grad_batches if self.automatic_optimization else h.accumulate_grad_batches
        return make_schedule(h.schedule, optimizer, h.learning_rate, self.trainer, "step", every)
