"""Ctrl-C and SIGTERM at the end of the batch that is running, with a checkpoint to go on from."""

import signal
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and has saved where it was."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopWhenAsked(Callback):
    """On the first SIGINT or SIGTERM, finish the batch, write ``last.ckpt`` and stop; on a second Ctrl-C, stop at once.

    Args:
        last: where the checkpoint goes.
    """

    def __init__(self, last: Path):
        self.last = last
        self.asked = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over both signals, after Lightning has registered its own handlers."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._note)

    def _note(self, signum: int, frame: Any) -> None:
        if self.asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signum

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Every rank stops at the same batch, whichever of them was asked."""
        asked = self.asked
        if trainer.world_size > 1:
            asked = int(trainer.strategy.reduce(torch.tensor(asked, device=pl_module.device), reduce_op="max"))
        if asked:
            trainer.save_checkpoint(self.last)
            raise Interrupted(asked)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back, also when the run fails."""
        self.teardown(trainer, pl_module, "fit")
