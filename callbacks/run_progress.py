"""One progress bar for a whole run, however short its epochs are."""

import sys
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

REFRESH_SECONDS = 0.2
REFRESH_SECONDS_IN_A_LOG = 10.0  # where nobody watches: a file, a pipe


class RunProgress(ProgressBar):
    """Steps of the whole run on one line, with the epoch and the latest metrics; one line more for the test.

    It draws at most five times a second, so that a run of thousands of tiny epochs does not spend its time here.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._enabled = True

    def disable(self) -> None:
        """No bar on ranks above 0 (Lightning calls this there)."""
        self._enabled = False

    def enable(self) -> None:
        """Undo ``disable``."""
        self._enabled = True

    def _open(self, description: str, total: float, initial: int = 0) -> None:
        self._close()
        known = None if total == float("inf") else int(total)
        self._bar = tqdm(
            total=known,
            initial=initial,
            desc=description,
            unit="batch",
            mininterval=REFRESH_SECONDS if sys.stderr.isatty() else REFRESH_SECONDS_IN_A_LOG,
            dynamic_ncols=True,
            file=sys.stderr,
            disable=not self._enabled,
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where the run stands: at 0, or where it is resumed."""
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else float("inf")
        total = trainer.num_training_batches * epochs
        if trainer.max_steps > 0:
            total = min(total, trainer.max_steps)
        done = trainer.fit_loop.epoch_loop.batch_progress.total.completed
        self._open("training", total, done)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """One batch further."""
        if self._bar is not None and self._bar.update(1):
            self._describe(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the last metrics and leave the bar standing."""
        self._describe(trainer, pl_module)
        self._close()

    def _describe(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is None:
            return
        metrics = {k: v for k, v in self.get_metrics(trainer, pl_module).items() if k != "v_num"}
        epoch = trainer.current_epoch + (0 if trainer.fit_loop.done else 1)
        self._bar.set_description(f"epoch {epoch}/{trainer.max_epochs}", refresh=False)
        self._bar.set_postfix({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in metrics.items()}, refresh=False)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A bar for the test stage."""
        self._open("test", sum(trainer.num_test_batches))

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """One test batch further."""
        if self._bar is not None:
            self._bar.update(1)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar standing."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the terminal in order."""
        self._close()
