"""A small convolutional network: pixels in, logits out, every stage reachable by its name."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn

from lit_models.stages import Downsampling, Padding, conv_stage, side_after

Schedule = Literal["one_cycle", "constant"]


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise ValueError, naming the option, unless ``low <= value < high``."""
    if not low <= value < high:
        raise ValueError(f"{name} must be in [{low}, {high}), got {value}")


def per_stage(convs: int | Sequence[int], channels: Sequence[int]) -> Sequence[int]:
    """The convolutions of each stage, where one number stands for all; ValueError where there are more or fewer."""
    counts = [convs] * len(channels) if isinstance(convs, int) else list(convs)
    if len(counts) != len(channels):
        raise ValueError(f"convs_per_stage must be one number or one for each of {len(channels)} stages, got {convs}")
    return counts


def check_whole(name: str, value: Any) -> None:
    """Raise ValueError, naming the option, unless ``value`` is an integer or holds nothing but integers."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{name} must be whole numbers, got {value!r}")


def check_options(h: Any) -> None:
    """Raise ValueError, naming the option, where the arguments of ``LitCNN`` are out of range."""
    for name in ("input_shape", "num_outputs", "channels", "kernel_size", "convs_per_stage", "hidden"):
        check_whole(name, h[name])
    check_range("dropout", h.dropout, 0, 1)
    check_range("stage_dropout", h.stage_dropout, 0, 1)
    check_range("label_smoothing", h.label_smoothing, 0, 1)
    check_range("weight_decay", h.weight_decay, 0)
    check_range("learning_rate", h.learning_rate, 0)
    check_range("the smallest of convs_per_stage", min(per_stage(h.convs_per_stage, h.channels), default=1), 1)
    for name in ("hidden", "num_outputs", "kernel_size"):
        check_range(name, h[name], 1)
    check_range("the smallest of channels", min(h.channels, default=1), 1)
    if len(h.betas) != 2 or not all(0 <= beta < 1 for beta in h.betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {list(h.betas)}")
    if len(h.input_shape) != 3 or min(h.input_shape) < 1:
        raise ValueError(f"LitCNN takes images of input_shape (C, H, W), got {tuple(h.input_shape)}")
    for name in ("mean", "std"):
        if np.size(h[name]) not in (1, h.input_shape[0]):
            raise ValueError(
                f"{name} must be one number, or one for each of {h.input_shape[0]} channels, got {h[name]}"
            )
    if not np.all(np.asarray(h.std) > 0):
        raise ValueError(f"std must be above 0, got {h.std}")
    if h.kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {h.kernel_size}")
    for name, kinds in (("schedule", Schedule), ("padding", Padding), ("downsampling", Downsampling)):
        if h[name] not in get_args(kinds):
            raise ValueError(f"unknown {name} {h[name]!r}; there are: {', '.join(get_args(kinds))}")


class LitCNN(LightningModule):
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
    ):
        super().__init__()
        self.save_hyperparameters()
        check_options(self.hparams)
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
        z = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.features(self.stages(z))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        return self.head(self.dropout(self.embed(x)))

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
        accuracy = (logits.argmax(dim=1) == t).float().mean()
        size: Any = float(len(x))  # Lightning's mean of integers over ranks would be rounded down
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
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The batch's mean cross-entropy; logs ``train/loss`` of this step and ``train/accuracy`` of the epoch."""
        return self._step(batch, "train", self._is_shown(batch_idx))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs ``val/loss`` and ``val/accuracy``."""
        self._step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Logs ``test/loss`` and ``test/accuracy``."""
        self._step(batch, "test")

    def configure_optimizers(self) -> Any:
        """AdamW under the chosen schedule, stepped after every batch."""
        h = self.hparams
        optimizer = torch.optim.AdamW(
            self.parameters(), h["learning_rate"], tuple(h["betas"]), weight_decay=h["weight_decay"], fused=True
        )
        if h["schedule"] == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if steps == math.inf:
            raise ValueError(f"schedule {h['schedule']!r} needs a run of known length: set max_epochs or max_steps")
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, h["learning_rate"], int(steps), cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
