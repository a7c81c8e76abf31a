"""Fixed samples from anyone's data, without disturbing it: the same ones at every call."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from interpretability.outputs import are_logits, logits_of
from interpretability.pixel_model import PixelModel

CANDIDATES = 4  # how many samples are looked at for each one kept, where labels are not known beforehand


def unpack(batch: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a batch: the first two of a sequence, or of a mapping's tensors, images first."""
    if isinstance(batch, Mapping):
        tensors = [value for value in batch.values() if isinstance(value, Tensor)]
        batch = sorted(tensors, key=lambda tensor: tensor.ndim < 4)
    if not isinstance(batch, Sequence) or len(batch) < 2 or not isinstance(batch[0], Tensor):
        raise TypeError(f"a batch must hold inputs and targets, not {type(batch).__name__}")
    return batch[0], torch.as_tensor(batch[1])


def first_loader(loaders: Any) -> Any:
    """The first of what a ``*_dataloader`` hook may return: a loader, or a list or dict of loaders."""
    while True:
        if isinstance(loaders, CombinedLoader):
            loaders = loaders.flattened
        elif isinstance(loaders, Mapping):
            loaders = list(loaders.values())
        elif isinstance(loaders, list | tuple):
            loaders = loaders[0] if loaders else None
        else:
            return loaders


def split_loader(trainer: Trainer, split: str) -> Any:
    """The trainer's first loader of ``train``, ``val`` or ``test``; None where it has none."""
    loaders = {
        "train": trainer.train_dataloader,
        "val": trainer.val_dataloaders,
        "test": trainer.test_dataloaders,
    }
    return first_loader(loaders[split])


def balanced(labels: Tensor, n: int) -> Tensor:
    """Indices (sorted) of at most ``n`` samples, the classes in turn, so that each has the same number."""
    if labels.ndim != 1 or labels.is_floating_point():
        return torch.linspace(0, len(labels) - 1, min(n, len(labels))).round().long()
    classes = labels.cpu().numpy()
    turn = np.empty(len(classes), dtype=np.int64)  # this sample is its class's first, second, third …
    for value in np.unique(classes):
        turn[classes == value] = np.arange((classes == value).sum())
    return torch.from_numpy(np.sort(np.lexsort((classes, turn))[:n]))


def fixed_samples(trainer: Trainer, pl_module: LightningModule, split: str, n: int) -> tuple[Tensor, Tensor] | None:
    """At most ``n`` samples of a split, balanced over the classes and the same every time.

    They come from ``datamodule.probe_batch(split, n)`` where there is one, else from the dataset behind
    the trainer's loader, read by index: neither samplers nor random states move.

    Returns:
        Inputs (N, …) and targets (N, …) as the model gets them, on its device; None without such a split.
    """
    probe = getattr(trainer.datamodule, "probe_batch", None)  # type: ignore[attr-defined]
    if callable(probe):
        try:
            batch = probe(split, n)
        except ValueError:  # it has no such split
            return None
    else:
        loader = split_loader(trainer, split)
        batch = None if loader is None else read_loader(loader, n * CANDIDATES)
    if batch is None:
        return None
    x, y = unpack(batch)
    keep = balanced(y, n)
    with evaluation_stage(trainer):
        x, y = unpack(trainer.strategy.batch_to_device((x[keep], y[keep]), pl_module.device))
    x = x / 255 if x.dtype == torch.uint8 else x
    return x.to(floating_dtype(pl_module)), y


def floating_dtype(pl_module: LightningModule) -> torch.dtype:
    """What the module computes in: its first floating-point parameter's type."""
    kinds = (parameter.dtype for parameter in pl_module.parameters() if parameter.is_floating_point())
    return next(kinds, torch.get_default_dtype())


@contextmanager
def evaluation_stage(trainer: Trainer) -> Iterator[None]:
    """Let transfer hooks see a validating trainer, so that they do not augment."""
    stage = trainer.state.stage
    trainer.state.stage = RunningStage.VALIDATING
    try:
        yield
    finally:
        trainer.state.stage = stage


def read_loader(loader: Any, n: int) -> Any:
    """About ``n`` samples spread over the loader's dataset, collated as the loader would."""
    dataset = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or isinstance(dataset, IterableDataset):
        return join(islice(loader, 1 + n // max(getattr(loader, "batch_size", None) or 1, 1)))
    size = len(dataset)  # type: ignore[arg-type]
    indices = torch.linspace(0, size - 1, min(n, size)).round().long().tolist()
    whole = getattr(dataset, "__getitems__", None)
    if not indices:
        return None
    items = whole(indices) if callable(whole) else [dataset[index] for index in indices]  # type: ignore[index]
    return loader.collate_fn(items)


def join(batches: Any) -> tuple[Tensor, Tensor] | None:
    """Several batches as one; None of none."""
    pairs = [unpack(batch) for batch in batches]
    return (torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])) if pairs else None


def classify(pl_module: LightningModule, x: Tensor) -> Tensor:
    """The module's logits (N, K) for ``x``, however it returns them. Raises as ``logits_of`` does."""
    return logits_of(pl_module(x))


def explained(pl_module: LightningModule, output: Any) -> nn.Module:
    """What is explained of a module that returns ``output``: itself, or itself behind what makes logits of that."""
    return pl_module if are_logits(output) else PixelModel(pl_module)


def check_classes(logits: Tensor, labels: Tensor) -> None:
    """TypeError unless a module gave logits (N, K) for images with class labels (N,)."""
    if logits.ndim != 2 or labels.ndim != 1 or labels.is_floating_point():
        raise TypeError(
            f"needs a classifier, with logits (N, K) and class labels (N,); got {tuple(logits.shape)} and"
            f" {labels.dtype} {tuple(labels.shape)}"
        )


def class_names(trainer: Trainer, n_classes: int) -> list[str]:
    """The datamodule's ``class_names`` where they fit, else the numbers."""
    names = getattr(trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
    if names is not None and len(names) == n_classes:
        return [str(name) for name in names]
    return [str(index) for index in range(n_classes)]
