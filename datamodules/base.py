"""What the datamodules share: splits in memory, seeded order, float images on the device, fixed probes."""

import os
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor

from datamodules.augmentation import RandomAffine
from datamodules.in_memory import EpochSampler, InMemoryDataset, InMemoryLoader

Split = Literal["train", "val", "test"]


def check_at_least(name: str, value: float, smallest: float) -> None:
    """Raise ValueError, naming the option, when ``value`` is below ``smallest``."""
    if not value >= smallest:
        raise ValueError(f"{name} must be at least {smallest}, got {value}")


class InMemoryDataModule(LightningDataModule):
    """Splits as tensors in memory; subclasses say what they are in ``load_splits``.

    Images stay uint8 in memory and become floats in [0, 1], of the model's dtype, on the device. On CUDA the whole
    split moves there once, unless loader processes were asked for.

    Args:
        batch_size: samples a training batch on each process; at least 1.
        eval_batch_size: samples a batch in validation and test.
        num_workers: loader processes; 0 is fastest for data in memory.
        shuffle_seed: with the epoch, decides the order of training samples; None takes the seed of
            ``seed_everything``, or 0 where it was not called.
        augment: applied to training images on the device; None for none.
    """

    input_shape: tuple[int, ...]
    num_outputs: int
    class_names: tuple[str, ...] | None = None
    passes_per_epoch = 1
    validates = True  # whether there is a validation split

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int = 1000,
        num_workers: int = 0,
        shuffle_seed: int | None = None,
        augment: RandomAffine | None = None,
    ):
        super().__init__()
        check_at_least("batch_size", batch_size, 1)
        check_at_least("eval_batch_size", eval_batch_size, 1)
        check_at_least("num_workers", num_workers, 0)
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.shuffle_seed = shuffle_seed
        self.augment = augment
        self.splits: dict[Split, InMemoryDataset] = {}
        self._train_loader: InMemoryLoader | None = None
        self._place: dict[str, int] = {}

    def load_splits(self) -> dict[Split, InMemoryDataset]:
        """Read the data and cut it into train, val and test."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Load once, whatever the stage."""
        if not self.splits:
            self.splits = self.load_splits()

    def _loader(self, split: Split) -> InMemoryLoader:
        training, trainer = split == "train", self.trainer
        if trainer is not None and trainer.strategy.root_device.type == "cuda" and self.num_workers == 0:
            self.splits[split] = self.splits[split].to(trainer.strategy.root_device)
        dataset = self.splits[split]
        if trainer is not None and len(dataset) < trainer.world_size:
            raise ValueError(f"{trainer.world_size} processes cannot share {len(dataset)} {split} sample(s)")
        seed = self.shuffle_seed if self.shuffle_seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))
        sampler = EpochSampler(
            dataset,
            shuffle=training,
            seed=seed,
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            passes=self.passes_per_epoch if training else 1,
        )
        batch_size = self.batch_size if training else self.eval_batch_size
        return InMemoryLoader(
            dataset=dataset,
            batch_size=min(batch_size, len(dataset)),
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> InMemoryLoader:
        """Shuffled batches of (inputs, targets), from the place that a checkpoint said."""
        self._train_loader = self._loader("train")
        if self._place:
            self._train_loader.load_state_dict(self._place)
            self._place = {}
        return self._train_loader

    def state_dict(self) -> dict[str, int]:
        """The training loader's place in its epoch.

        The datamodule stores it, for Lightning restores a loader's own state only where no scheduler asked for
        the number of steps beforehand.
        """
        if self._train_loader is None or self.trainer is None:
            return {}
        place = self._train_loader.state_dict()
        finished = place["handed_out"] >= self.trainer.num_training_batches  # fewer, where the Trainer limits them
        return {"handed_out": 0} if finished else place

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Keep the place for the loader that is made next."""
        self._place = state_dict

    def val_dataloader(self) -> InMemoryLoader | list:
        """The validation split in order; no loader where there is no such split."""
        return self._loader("val") if "val" in self.splits else []

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Float images in the model's dtype, augmented while training; what is no batch of ours passes through."""
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            return batch
        inputs, targets = batch
        trainer = self.trainer
        dtype = trainer.lightning_module.dtype if trainer else torch.get_default_dtype()
        inputs = as_float(inputs, dtype if isinstance(dtype, torch.dtype) else torch.get_default_dtype())
        if self.augment is not None and trainer is not None and trainer.training:
            inputs = self.augment(inputs)
        return inputs, targets

    def probe_batch(self, split: Split, n: int) -> tuple[Tensor, Tensor]:
        """The same ``n`` samples every time, classes in turn: float inputs (n, …) and targets (n, …).

        Usable without a Trainer. Fewer come back where the split has fewer.
        """
        if split not in ("train", "val", "test"):
            raise ValueError(f"unknown split {split!r}; there are: train, val, test")
        if not self.splits:
            self.prepare_data()
            self.setup()
        if split not in self.splits:
            raise ValueError(f"{type(self).__name__} has no {split} samples")
        dataset = self.splits[split]
        targets = dataset.targets[dataset.indices]
        rows = _classes_in_turn(targets)[:n] if targets.dtype == torch.long else torch.arange(len(dataset))[:n]
        inputs, targets = dataset.__getitems__(rows.tolist())
        return as_float(inputs.cpu(), torch.get_default_dtype()), targets.cpu()


class ClassifierDataModule(InMemoryDataModule):
    """An in-memory datamodule with a test split: what ``trainer.test`` reads, and nothing else does."""

    def test_dataloader(self) -> InMemoryLoader:
        """The untouched test split, in order."""
        return self._loader("test")


def as_float(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats of ``dtype``; bytes are scaled from 0…255 to [0, 1]."""
    return inputs.to(dtype).div_(255) if inputs.dtype == torch.uint8 else inputs.to(dtype)


def _classes_in_turn(targets: Tensor) -> Tensor:
    """Rows ordered 0, 1, …, K−1, 0, 1, …: every prefix is as balanced as it can be."""
    place = torch.zeros_like(targets)
    for label in targets.unique():
        members = targets == label
        place[members] = torch.arange(int(members.sum()), device=targets.device)
    return torch.argsort(place * (int(targets.max()) + 1) + targets)
