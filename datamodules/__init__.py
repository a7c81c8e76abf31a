"""Small datasets, whole in memory, in ready batches."""

from datamodules.augmentation import RandomAffine
from datamodules.base import ClassifierDataModule, InMemoryDataModule
from datamodules.digits import DigitsDataModule
from datamodules.in_memory import EpochSampler, InMemoryDataset, InMemoryLoader
from datamodules.mnist import MNISTDataModule
from datamodules.mnist_files import DataFileError
from datamodules.toy import TOY_T, TOY_X, ToyDataModule

__all__ = [
    "TOY_T",
    "TOY_X",
    "ClassifierDataModule",
    "DataFileError",
    "DigitsDataModule",
    "EpochSampler",
    "InMemoryDataModule",
    "InMemoryDataset",
    "InMemoryLoader",
    "MNISTDataModule",
    "RandomAffine",
    "ToyDataModule",
]
