"""Random states in the checkpoint, so that a resumed run draws what the uninterrupted one would have."""

import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from callbacks.ranks import of_all_ranks


def get_random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, as plain numbers and tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what ``get_random_state`` gave; CUDA states only where there are as many devices."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([cuda.cpu() for cuda in state["cuda"]])


class RandomState(Callback):
    """Saves every rank's random state with each checkpoint and restores it before the first batch after a resume.

    At the last moment that Lightning offers: what happens between loading and the first batch may itself draw
    numbers, and the first batch's augmentation draws before its ``on_train_batch_start``.
    """

    def __init__(self) -> None:
        self._to_restore: list[dict[str, Any]] = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Collect the states of all ranks; every rank comes through here."""
        checkpoint["random_states"] = of_all_ranks(trainer, get_random_state())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the states until the first batch; a run on another number of ranks starts afresh."""
        states = checkpoint.get("random_states", [])
        self._to_restore = states if len(states) == trainer.world_size else []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore; within an epoch no later hook comes before the batch."""
        self._restore(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore again where an epoch begins, whatever other callbacks drew at the start."""
        self._restore(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """From here on the run draws for itself."""
        self._to_restore = []

    def _restore(self, trainer: Trainer) -> None:
        if self._to_restore:
            set_random_state(self._to_restore[trainer.global_rank])
