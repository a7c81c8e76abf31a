"""Ctrl-C and SIGTERM: in training at the end of the batch that is running, with a checkpoint to go on from."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning import Callback, LightningModule, Trainer


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop by this signal."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM raises :class:`Interrupted`, as Ctrl-C raises KeyboardInterrupt: Lightning's own handler exits with 0."""

    def stop(signum: int, frame: Any) -> NoReturn:
        raise Interrupted(signum)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class StopWhenAsked(Callback):
    """On the first SIGINT or SIGTERM, finish the batch, write ``last.ckpt`` and stop; on a second Ctrl-C, stop at once.

    A batch that a resumed run could not begin behind does not end there: one inside a window of accumulated gradients,
    which no checkpoint holds, or before a validation. Asked during the last batch of an epoch or of the run it lets the
    epoch end whole, with its validation and its metrics.

    Args:
        last: where the checkpoint goes.
    """

    def __init__(self, last: Path):
        self.last = last
        self.asked = 0
        self.began = False  # whether training has begun, with everything restored that there was to restore
        self._updates = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over both signals, after Lightning has registered its own handlers."""
        self.began = True
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._note)

    def _note(self, signum: int, frame: Any) -> None:
        if self.asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signum

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Remember how many updates there were."""
        self._updates = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Within an epoch: save and stop."""
        if self._agreed(trainer, pl_module) and self._can_go_on_behind(trainer):
            trainer._logger_connector.update_train_step_metrics()  # Lightning would, after this hook
            trainer.save_checkpoint(self.last)
            raise Interrupted(self.asked)

    def _can_go_on_behind(self, trainer: Trainer) -> bool:
        """Whether this batch ended an update, and another batch of the epoch comes right behind it."""
        loop, data = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        ends = trainer.is_last_batch or loop._is_training_done
        return trainer.global_step > self._updates and not ends and not loop._should_check_val_fx(data)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save here, where a resumed run begins with a new epoch."""
        if self._agreed(trainer, pl_module):
            trainer.save_checkpoint(self.last)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs; the checkpoint is that of the epoch's end."""
        if self._agreed(trainer, pl_module):
            raise Interrupted(self.asked)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the test stage when asked too late to stop before; the signals are Lightning's again."""
        asked = self._agreed(trainer, pl_module)
        self.teardown(trainer, pl_module, "fit")
        if asked:
            raise Interrupted(asked)

    def _agreed(self, trainer: Trainer, pl_module: LightningModule) -> int:
        """The signal that any rank was sent: every rank stops at the same batch."""
        if trainer.world_size > 1:
            asked = torch.tensor(self.asked, device=pl_module.device)
            self.asked = int(trainer.strategy.reduce(asked, reduce_op="max"))
        return self.asked

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back, also when the run fails."""
        self.teardown(trainer, pl_module, "fit")
