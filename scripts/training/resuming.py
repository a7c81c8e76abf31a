"""Whether a resumed run can go on to the length that it is now given."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from console import UserError


def planned_steps(scheduler: dict[str, Any]) -> int | None:
    """How many steps a schedule with this state was made for; None where it has no end."""
    return scheduler.get("total_steps", scheduler.get("T_max"))


class CheckLength(Callback):
    """Refuses a resume to fewer epochs than are begun, and one to more steps than a learning rate's schedule has.

    A schedule over the whole run comes back from the checkpoint with the length it had; past its end it fails, or
    rises again. Both are known before anything is trained or written.
    """

    def __init__(self) -> None:
        self._schedules: list[dict[str, Any]] = []
        self._epochs = 0  # whole ones done
        self._batches = 0  # of the epoch that was cut short

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare the epochs begun with the epochs asked for; keep where the run and its schedules were."""
        loop = checkpoint["loops"]["fit_loop"]
        epochs, asked = loop["epoch_progress"]["current"], trainer.max_epochs
        if asked is not None and 0 <= asked < epochs["ready"]:
            raise UserError(
                f"--trainer.max_epochs={asked}: the run that is resumed has begun {epochs['ready']} epochs already"
            )
        self._epochs = epochs["processed"]
        cut_short = epochs["ready"] > epochs["processed"]
        self._batches = loop["epoch_loop.batch_progress"]["current"]["ready"] if cut_short else 0
        self._schedules = checkpoint["lr_schedulers"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the length of the checkpoint's schedules with the step at which this run would end."""
        for config, schedule in zip(trainer.lr_scheduler_configs, self._schedules):
            planned, steps = planned_steps(schedule), planned_steps(config.scheduler.state_dict())
            end = self._end(trainer, config.interval, schedule["last_epoch"], steps) if planned and steps else 0
            if planned and planned < end:
                raise UserError(
                    f"the learning rate's schedule was planned for {planned} {config.interval}s, this run would end at "
                    f"{end}; go on with the epochs and batches it began with, or start a new run"
                )

    def _end(self, trainer: Trainer, interval: str, done: int, steps: int) -> int:
        """Where a schedule that is ``done`` steps old would be at the end, if a new run had this many ``steps``."""
        epochs = trainer.max_epochs
        if epochs is None or epochs <= 0:
            return steps
        begun = self._batches // trainer.accumulate_grad_batches if interval == "step" else 0
        end = done - begun + (epochs - self._epochs) * (steps // epochs)
        return min(end, trainer.max_steps) if trainer.max_steps > 0 else end
