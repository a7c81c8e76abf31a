"""MNIST in memory, its official test set untouched until the test stage."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.datasets import MNIST

from datamodules.augmentation import RandomAffine
from datamodules.base import ClassifierDataModule, Split, check_at_least
from datamodules.digits import DIGIT_NAMES
from datamodules.in_memory import InMemoryDataset
from datamodules.mnist_files import COUNTS, ensure_files, read_split


class MNISTDataModule(ClassifierDataModule):
    """70,000 digits at 1×28×28 (LeCun, Cortes & Burges): the official 60,000, less validation, and 10,000 for the test.

    Args:
        data_dir: the folder above ``MNIST/raw``; missing files are downloaded into it, once.
        batch_size, eval_batch_size, num_workers, shuffle_seed: as in ``InMemoryDataModule``.
        val_size: how many of the 60,000 are held out for validation.
        split_seed: decides which; the same on every rank, run and resume.
        mirrors: base addresses to download from; None for torchvision's.
        degrees, translate, scale, shear, elastic: ranges of ``RandomAffine`` for training images; 0 for none.

    Raises:
        ValueError: an option out of range. DataFileError (an OSError): files missing or damaged, named.
    """

    input_shape = (1, 28, 28)
    num_outputs = 10
    class_names = DIGIT_NAMES

    def __init__(
        self,
        data_dir: str | Path = "data",
        batch_size: int = 256,
        eval_batch_size: int = 1000,
        num_workers: int = 0,
        val_size: int = 5000,
        split_seed: int = 0,
        shuffle_seed: int | None = None,
        mirrors: Sequence[str] | None = None,
        degrees: float = 0.0,
        translate: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        elastic: float = 0.0,
    ):
        augment = RandomAffine(degrees, translate, scale, shear, elastic)
        distorts = any((degrees, translate, scale, shear, elastic))
        super().__init__(batch_size, eval_batch_size, num_workers, shuffle_seed, augment if distorts else None)
        check_at_least("val_size", val_size, 1)
        if val_size >= COUNTS["train"]:
            raise ValueError(f"val_size must be below {COUNTS['train']}, got {val_size}")
        data_dir = str(data_dir)  # plain data, for the checkpoint
        self.save_hyperparameters()
        self.data_dir, self.val_size, self.split_seed = data_dir, val_size, split_seed
        self.mirrors = tuple(MNIST.mirrors if mirrors is None else mirrors)

    def prepare_data(self) -> None:
        """Find or download the four files; Lightning calls this in one process."""
        ensure_files(self.data_dir, self.mirrors)

    def load_splits(self) -> dict[Split, InMemoryDataset]:
        """Check and read the files; hold ``val_size`` of the official training images out."""
        images, labels = read_split(self.data_dir, "train")
        test = InMemoryDataset(*read_split(self.data_dir, "test"))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.split_seed))
        val, train = order[: self.val_size], order[self.val_size :]
        return {
            "train": InMemoryDataset(images, labels, train),
            "val": InMemoryDataset(images, labels, val),
            "test": test,
        }
