"""A module, data and a logger that are not the project's own: what the callbacks have to work with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Scripted(LightningModule):
    """Its metric follows a script, one value a check; its only weight counts the training steps."""

    def __init__(self, script: Sequence[float], steps_per_check: int = 1, monitor: str = "val/loss"):
        super().__init__()
        self.script, self.steps_per_check, self.monitor = list(script), steps_per_check, monitor
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x

    def value(self, steps: int) -> float:
        return self.script[steps // self.steps_per_check - 1]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.monitor.startswith("train"):
            value = float(self.value(self.trainer.global_step + 1))
            self.log(self.monitor, value, on_step=False, on_epoch=True)
        return -self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        value = 0 if self.trainer.sanity_checking else self.value(self.trainer.global_step)
        self.log(self.monitor, float(value))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Classifier(LightningModule):
    """A small convolutional classifier with dropout and batch normalisation, by somebody else."""

    def __init__(self, n_classes: int = 4, channels: int = 1):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(54, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x)))

    def _loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self._loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self._loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def blobs(n: int, n_classes: int = 4, size: tuple[int, int, int] = (1, 9, 12), seed: int = 0) -> TensorDataset:
    """Noisy images of ``n_classes`` kinds, in [0, 1] and not square."""
    generator = torch.Generator().manual_seed(7)
    kinds = torch.rand(n_classes, *size, generator=generator)
    generator.manual_seed(seed)
    labels = torch.randint(n_classes, (n,), generator=generator)
    noise = torch.rand(n, *size, generator=generator)
    return TensorDataset(0.6 * kinds[labels] + 0.4 * noise, labels)


def loaders(n: int = 96, **options: Any) -> tuple[DataLoader, DataLoader]:
    """A shuffled training loader, which draws from the global random state, and a validation loader."""
    return (
        DataLoader(blobs(n, seed=1, **options), batch_size=16, shuffle=True),
        DataLoader(blobs(max(n // 2, 1), seed=2, **options), batch_size=16),
    )


class OtherLogger(Logger):
    """A logger without a folder that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[str, float] = {}

    @property
    def name(self) -> str:
        return "other"

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.update(metrics)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def quiet_trainer(root: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """A CPU trainer without bars, tables, loggers or checkpoints, unless asked for."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 1,
        "log_every_n_steps": 1,
    }
    return Trainer(default_root_dir=root, callbacks=list(callbacks), **quiet | options)
