"""An epoch of MNIST in batches: whole-batch indexing and augmentation against torchvision's image-by-image pipeline."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.harness import Result, compare
from benchmarks.training import recipe_data
from datamodules import InMemoryDataset
from datamodules.augmentation import RandomAffine

SPEEDUP = 15
AFFINE = {"degrees": 10, "translate": 0.1, "scale": 0.1, "shear": 5}


class ImageByImage(Dataset[tuple[Tensor, int]]):
    """What ``torchvision.datasets.MNIST`` does for an index: a picture of the bytes, through the transform."""

    def __init__(self, split: InMemoryDataset, transform: transforms.Compose):
        self.images, self.labels = split.inputs[split.indices, 0], split.targets[split.indices]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy(), mode="L")), int(self.labels[index])


def epoch(name: str, augment: RandomAffine | None, transform: list, quick: bool, data_dir: Path) -> Result:
    """One epoch of float images, as a training loop gets them, from one process each."""
    data = recipe_data(data_dir)
    loader = data.train_dataloader()
    limit = 4 if quick else len(loader)
    images = ImageByImage(data.splits["train"], transforms.Compose([*transform, transforms.ToTensor()]))

    def ours() -> None:
        for batch in islice(loader, limit):
            x, _ = data.on_after_batch_transfer(batch, 0)
            if augment is not None:
                augment(x)

    def peer() -> None:
        for _ in islice(DataLoader(images, data.batch_size, shuffle=True), limit):
            pass

    repeats = 1 if quick else 3
    peer_name = "torchvision, image by image"
    return compare(name, ours, peer, peer_name=peer_name, bound=1 / SPEEDUP, repeats=repeats, warmup=0)


def run(quick: bool, data_dir: Path) -> Iterator[Result]:
    """Plain batches, then randomly distorted ones."""
    yield epoch("an epoch of batches", None, [], quick, data_dir)
    degrees, shift, size, shear = AFFINE.values()
    affine = transforms.RandomAffine(degrees, (shift, shift), (1 - size, 1 + size), shear)
    yield epoch("an epoch of batches, random affine", RandomAffine(**AFFINE), [affine], quick, data_dir)
