"""Whole small datasets in memory, handed out in ready batches by an ordinary, resumable DataLoader."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler


class InMemoryDataset(Dataset[tuple[Tensor, Tensor]]):
    """Inputs and targets as two tensors; ``__getitems__`` cuts a whole batch with one indexing.

    Args:
        inputs: (N, …), any dtype (images stay uint8).
        targets: (N,) class indices or (N, K) real values.
        indices: the N' rows that belong to this split, or None for all.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, indices: Tensor | None = None):
        if len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} inputs but {len(targets)} targets")
        self.inputs, self.targets = inputs, targets
        self.indices = torch.arange(len(inputs), device=inputs.device) if indices is None else indices

    def to(self, device: torch.device | str) -> "InMemoryDataset":
        """The same split on a device, where its batches are then cut."""
        return InMemoryDataset(self.inputs.to(device), self.targets.to(device), self.indices.to(device))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.indices[index]
        return self.inputs[row], self.targets[row]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The batch of these rows: what DataLoader asks for when it is there."""
        rows = self.indices[torch.as_tensor(indices, device=self.indices.device)]
        return self.inputs[rows], self.targets[rows]


class EpochSampler(DistributedSampler[int]):
    """This rank's indices; shuffled, they are a function of (seed, epoch) and of nothing else.

    Lightning calls ``set_epoch`` on it and, because it is a DistributedSampler, does not replace it. When it
    shuffles (training), the epoch is padded so that every rank gets as many samples; when it does not
    (evaluation), each sample is seen exactly once.

    Args:
        dataset: what is indexed.
        shuffle: a new order every epoch, or the order of the dataset.
        seed: with the epoch, decides the order.
        num_replicas, rank: how many processes share the epoch, and which this is.
        passes: how often the dataset is gone through in what counts as one epoch, each time in a new order.
    """

    def __init__(
        self, dataset: Dataset, shuffle: bool, seed: int = 0, num_replicas: int = 1, rank: int = 0, passes: int = 1
    ):
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)
        self.dataset_size, self.passes = len(dataset), passes  # type: ignore[arg-type]
        self.num_samples = -(-self.dataset_size * passes // num_replicas)
        self.total_size = self.num_samples * num_replicas

    def order(self) -> Tensor:
        """The whole epoch's order, the same on every rank."""
        if not self.shuffle:
            return torch.arange(self.dataset_size)
        seed = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed >> 1))
        order = torch.cat([torch.randperm(self.dataset_size, generator=generator) for _ in range(self.passes)])
        return order.repeat(-(-self.total_size // len(order)))[
            : self.total_size
        ]  # more ranks than samples: several times

    def __iter__(self) -> Iterator[int]:
        return iter(self.order()[self.rank :: self.num_replicas].tolist())

    def __len__(self) -> int:
        return self.num_samples if self.shuffle else len(range(self.rank, self.dataset_size, self.num_replicas))


def ready_batch(batch: Any) -> Any:
    """The collate function of a dataset that hands out whole batches: nothing is left to do."""
    return batch


class InMemoryLoader(DataLoader):
    """A DataLoader that remembers how many batches of the epoch it has handed out.

    After ``load_state_dict`` the next epoch begins behind the batches that were already trained on.
    Its generator is its own, so that iterating never draws from the global random state.
    """

    def __init__(self, dataset: InMemoryDataset, batch_size: int, sampler: Sampler | None = None, **options: Any):
        # as defaults, for Lightning makes a loader anew from its attributes (``--trainer.overfit_batches``)
        options = {"collate_fn": ready_batch, "generator": torch.Generator(), **options}
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, **options)
        self._handed_out = 0
        self._skip = 0

    def __iter__(self) -> Iterator:  # type: ignore[override]
        skip, self._skip = self._skip, 0
        self._handed_out = skip
        for batch in self._behind(skip) if skip else super().__iter__():
            self._handed_out += 1
            yield batch

    def _behind(self, skip: int) -> DataLoader:
        """The rest of the epoch: the same batches, without fetching the first ``skip``."""
        assert self.batch_sampler is not None
        return DataLoader(
            self.dataset,
            batch_sampler=list(self.batch_sampler)[skip:],
            collate_fn=self.collate_fn,
            generator=self.generator,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )

    def state_dict(self) -> dict[str, int]:
        """How many batches of the running epoch were handed out."""
        return {"handed_out": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next epoch behind ``state["handed_out"]`` batches; at its beginning if those were all."""
        self._skip = state["handed_out"] % len(self)
