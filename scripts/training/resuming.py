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
        self._planned: list[int | None] = []

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare the epochs begun with the epochs asked for; keep the lengths of the schedules."""
        begun, asked = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"], trainer.max_epochs
        if asked is not None and 0 <= asked < begun:
            raise UserError(f"--trainer.max_epochs={asked}: the run that is resumed has begun {begun} epochs already")
        self._planned = [planned_steps(scheduler) for scheduler in checkpoint["lr_schedulers"]]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the schedules of the checkpoint with those just made for this run."""
        for config, planned in zip(trainer.lr_scheduler_configs, self._planned):
            steps = planned_steps(config.scheduler.state_dict())
            if planned and steps and planned < steps:
                raise UserError(
                    f"the learning rate's schedule was planned for {planned} {config.interval}s, this run would have "
                    f"{steps}; go on with the epochs and batches it began with, or start a new run"
                )
