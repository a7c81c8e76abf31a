"""scikit-learn's bundled handwritten digits, drawn as MNIST draws them: data without any network."""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.augmentation import RandomAffine
from datamodules.base import ClassifierDataModule, Split
from datamodules.in_memory import InMemoryDataset

DIGIT_NAMES = tuple(str(digit) for digit in range(10))


def enlarge(images: Tensor) -> Tensor:
    """8×8 images with values 0 … 16 to uint8 (N, 1, 28, 28): 20×20 pixels of ink in a frame of 4, as in MNIST."""
    large = F.interpolate(images[:, None].float() / 16, size=(20, 20), mode="bicubic", align_corners=False)
    return F.pad(large.clamp(0, 1).mul(255).round().byte(), (4, 4, 4, 4))


class DigitsDataModule(ClassifierDataModule):
    """1,797 digits of 43 writers (UCI ML hand-written digits) at 1×28×28: 1,257 to train, 180 validation, 360 test.

    Args:
        batch_size, eval_batch_size, num_workers, shuffle_seed: as in ``InMemoryDataModule``.
        split_seed: decides which images are test, validation and training.
        degrees, translate, scale, shear, elastic: ranges of ``RandomAffine`` for training images; 0 for none.
    """

    input_shape = (1, 28, 28)
    num_outputs = 10
    class_names = DIGIT_NAMES
    num_test, num_val = 360, 180

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int = 1000,
        num_workers: int = 0,
        split_seed: int = 0,
        shuffle_seed: int | None = None,
        degrees: float = 0.0,
        translate: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        elastic: float = 0.0,
    ):
        augment = RandomAffine(degrees, translate, scale, shear, elastic)
        distorts = any((degrees, translate, scale, shear, elastic))
        super().__init__(batch_size, eval_batch_size, num_workers, shuffle_seed, augment if distorts else None)
        self.save_hyperparameters()
        self.split_seed = split_seed

    def load_splits(self) -> dict[Split, InMemoryDataset]:
        """One seeded shuffle, cut into test, validation and training."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images, labels = enlarge(torch.from_numpy(bunch.images)), torch.from_numpy(bunch.target).long()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.split_seed))
        test, val, train = order.split([self.num_test, self.num_val, len(labels) - self.num_test - self.num_val])
        rows: dict[Split, Tensor] = {"train": train, "val": val, "test": test}
        return {split: InMemoryDataset(images, labels, indices) for split, indices in rows.items()}
