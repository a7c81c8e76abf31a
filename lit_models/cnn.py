"""A small convolutional network: pixels in, logits out, every stage reachable by its name."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn

Schedule = Literal["one_cycle", "constant"]


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise ValueError, naming the option, unless ``low <= value < high``."""
    if not low <= value < high:
        raise ValueError(f"{name} must be in [{low}, {high}), got {value}")


def conv_stage(inputs: int, outputs: int, kernel_size: int, convs: int, batch_norm: bool) -> nn.Sequential:
    """``convs`` times convolution, batch norm and ReLU at full resolution, then 2×2 max-pooling."""
    layers: list[nn.Module] = []
    for index in range(convs):
        inputs = inputs if index == 0 else outputs
        layers.append(nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=not batch_norm))
        layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.MaxPool2d(2))


class LitCNN(LightningModule):
    """``stages.0 … stages.S−1`` → ``features`` → ``head``; images (N, C, H, W) in [0, 1] to logits (N, K).

    Args:
        input_shape: (C, H, W) of one image.
        num_outputs: the number of classes K.
        channels: output channels of each stage; every stage halves height and width.
        kernel_size: side of the convolutions; odd.
        convs_per_stage: convolutions before each pooling.
        hidden: width of the penultimate layer, what ``embed`` returns.
        batch_norm: normalise after each convolution.
        dropout: probability of dropping a penultimate feature while training.
        label_smoothing: share of the target spread over all classes while training.
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
        convs_per_stage: int = 1,
        hidden: int = 256,
        batch_norm: bool = False,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        weight_decay: float = 0.0,
        learning_rate: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        schedule: Schedule = "one_cycle",
        mean: float | Sequence[float] = 0.1307,
        std: float | Sequence[float] = 0.3081,
    ):
        super().__init__()
        check_range("dropout", dropout, 0, 1)
        check_range("label_smoothing", label_smoothing, 0, 1)
        check_range("weight_decay", weight_decay, 0)
        check_range("learning_rate", learning_rate, 0)
        check_range("convs_per_stage", convs_per_stage, 1)
        check_range("hidden", hidden, 1)
        check_range("num_outputs", num_outputs, 1)
        check_range("kernel_size", kernel_size, 1)
        check_range("the smallest of channels", min(channels, default=1), 1)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {list(betas)}")
        for name, value in (("mean", mean), ("std", std)):
            if np.size(value) not in (1, input_shape[0]):
                raise ValueError(
                    f"{name} must be one number, or one for each of {input_shape[0]} channels, got {value}"
                )
        if not np.all(np.asarray(std) > 0):
            raise ValueError(f"std must be above 0, got {std}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        if schedule not in ("one_cycle", "constant"):
            raise ValueError(f"unknown schedule {schedule!r}; there are: one_cycle, constant")
        if len(input_shape) != 3:
            raise ValueError(f"LitCNN takes images of input_shape (C, H, W), got {tuple(input_shape)}")
        depth, height, width = input_shape
        shrunk = min(height, width) >> len(channels)
        if not channels or shrunk < 1:
            raise ValueError(f"channels: {len(channels)} stages do not fit images of {height}×{width}")
        self.save_hyperparameters()
        self.register_buffer("mean", torch.as_tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.as_tensor(std).view(-1, 1, 1), persistent=False)
        self.stages = nn.Sequential(
            *(
                conv_stage(inputs, outputs, kernel_size, convs_per_stage, batch_norm)
                for inputs, outputs in zip([depth, *channels], channels)
            )
        )
        area = (height >> len(channels)) * (width >> len(channels))
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(channels[-1] * area, hidden), nn.ReLU())
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

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        x, t = batch
        logits = self(x)
        smoothing = self.hparams["label_smoothing"] if stage == "train" else 0.0
        loss = F.cross_entropy(logits, t, label_smoothing=smoothing)
        accuracy = (logits.argmax(dim=1) == t).float().mean()
        size: Any = float(len(x))  # Lightning's mean of integers over ranks would be rounded down
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
        """The batch's mean cross-entropy."""
        return self._step(batch, "train")

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
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, h["learning_rate"], steps, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
