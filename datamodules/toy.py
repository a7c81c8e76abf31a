"""The eleven points of the course sheet."""

from collections.abc import Sequence

import torch

from datamodules.base import InMemoryDataModule, Split, check_at_least
from datamodules.in_memory import InMemoryDataset

TOY_X = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
TOY_T = (0.15, -0.16, -0.61, -0.86, -1.02, -0.44, 0.16, 0.05, 0.45, 1.39, 0.86)


class ToyDataModule(InMemoryDataModule):
    """Eleven points (x, t), x in [0, 1]; those held out become the validation split.

    Args:
        held_out: positions 0 … 10 of the points that are kept from training; at most ten, each once.
        batch_size: points an update; None for all training points at once.
        passes_per_epoch: how often the points are gone through between two validations; with so few points, one
            pass is no sensible epoch.
        shuffle_seed: as in ``InMemoryDataModule``.

    Raises:
        ValueError: a position outside 0 … 10, named twice, or all eleven held out; an option out of range.
    """

    input_shape = (1,)
    num_outputs = 1

    def __init__(
        self,
        held_out: Sequence[int] = (),
        batch_size: int | None = None,
        passes_per_epoch: int = 100,
        shuffle_seed: int | None = None,
    ):
        self.kept = [position for position in range(len(TOY_X)) if position not in held_out]
        self.held_out = list(held_out)
        for position in self.held_out:
            if not 0 <= position < len(TOY_X):
                raise ValueError(f"held_out: there is no point {position}; positions are 0 to {len(TOY_X) - 1}")
        if len(set(self.held_out)) < len(self.held_out):
            raise ValueError(f"held_out names a point twice: {self.held_out}")
        if not self.kept:
            raise ValueError("held_out leaves no point to train on")
        check_at_least("passes_per_epoch", passes_per_epoch, 1)
        super().__init__(batch_size=len(self.kept) if batch_size is None else batch_size, shuffle_seed=shuffle_seed)
        self.save_hyperparameters()
        self.passes_per_epoch = passes_per_epoch
        self.validates = bool(self.held_out)

    def load_splits(self) -> dict[Split, InMemoryDataset]:
        """Training points, and the held-out ones as validation where there are any."""
        x, t = torch.tensor(TOY_X)[:, None], torch.tensor(TOY_T)[:, None]
        splits: dict[Split, InMemoryDataset] = {"train": InMemoryDataset(x, t, torch.tensor(self.kept))}
        if self.held_out:
            splits["val"] = InMemoryDataset(x, t, torch.tensor(self.held_out))
        return splits
