"""Small data and faults that the command line takes by name: ``--trainer.callbacks+=injected.Kill``."""

import ctypes
import gc
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from matplotlib import pyplot
from sklearn.datasets import load_digits

from datamodules import MNISTDataModule
from datamodules.base import Split
from datamodules.digits import enlarge
from datamodules.in_memory import InMemoryDataset


class SmallMNIST(MNISTDataModule):
    """MNIST's datamodule on scikit-learn's digits: ``n_train`` images, of which ``val_size`` are held out."""

    def __init__(self, n_train: int = 240, val_size: int = 40, **options: Any):
        super().__init__(val_size=val_size, **options)
        self.n_train = n_train

    def prepare_data(self) -> None:
        """There is nothing to find."""

    def load_splits(self) -> dict[Split, InMemoryDataset]:
        bunch = load_digits()
        images, labels = enlarge(torch.from_numpy(bunch.images)), torch.from_numpy(bunch.target).long()
        order = torch.randperm(self.n_train, generator=torch.Generator().manual_seed(self.split_seed))
        return {
            "train": InMemoryDataset(images, labels, order[self.val_size :]),
            "val": InMemoryDataset(images, labels, order[: self.val_size]),
            "test": InMemoryDataset(images, labels, torch.arange(self.n_train, self.n_train + 99)),
        }


class SignalAt(Callback):
    """Sends this process, if it is rank ``rank``, a signal at the end of the batch that makes ``step`` updates."""

    def __init__(self, step: int, signum: int = int(signal.SIGINT), rank: int = 0):
        self.step, self.signum, self.rank = step, signum, rank

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.signum)


class SignalIn(Callback):
    """Sends this process a signal the ``count``-th time that Lightning calls ``hook``."""

    def __init__(self, hook: str, count: int = 1, signum: int = int(signal.SIGINT)):
        self.left, self.signum = count, signum
        setattr(self, hook, self._called)

    def _called(self, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.signum)


class RaiseAt(Callback):
    """Raises at the end of that batch."""

    def __init__(self, step: int, rank: int = 0):
        self.step, self.rank = step, rank

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            raise RuntimeError("injected")


class Dump(Callback):
    """Every rank writes its weights and the metrics that it knows to ``folder/rank0.pt`` once training has ended."""

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        content = {"weights": pl_module.state_dict(), "metrics": metrics, "steps": trainer.global_step}
        torch.save(content, self.folder / f"rank{trainer.global_rank}.pt")


class Watch(Callback):
    """Every ``every`` epochs: a line with this process's private memory, open files, threads, figures and children."""

    def __init__(self, path: str, every: int):
        self.path, self.every = Path(path), every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every == 0:
            with self.path.open("a") as file:
                print(json.dumps({"epoch": trainer.current_epoch + 1} | resources()), file=file)


def resources() -> dict[str, int]:
    """What this process holds now; memory in kB, after a collection and after giving free memory back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    memory = Path("/proc/self/smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in memory if line.startswith("Private_"))
    files = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return {
        "memory": private,
        "files": sum(name.startswith("/") and not name.startswith("/dev") for name in files),
        "threads": threading.active_count(),
        "figures": len(pyplot.get_fignums()),
        "children": len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
    }
