"""Whether a resumed run can go on with the settings, and to the length, that it is now given."""

from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer

from console import UserError, shorten

ANOTHER_RUN = ("model.class_path", "data.class_path", "model.init_args.optimizer")  # state of one does not fit another
WITHIN_AN_EPOCH = (
    "seed_everything",
    "data.",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accumulate_grad_batches",
)


def changed_settings(before: Any, now: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted option → (its value in the run, its value now), for every option of the run that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in before:
            found |= changed_settings(before[key], now.get(key), f"{name}.{key}" if name else str(key))
        return found
    return {} if before == now else {name: (before, now)}


def check_changes(changed: Mapping[str, tuple[Any, Any]], checkpoint: Mapping[str, Any]) -> str | None:
    """One line that lists the changed settings, or None where there are none.

    Raises:
        UserError: a setting under which the checkpoint cannot be continued: another model, data or optimiser; or,
            where it lies within an epoch, anything that decides which batches the rest of that epoch holds.
    """
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"] if "loops" in checkpoint else None
    refused = {name: "a run cannot go on with another" for name in changed if name in ANOTHER_RUN}
    if epochs is not None and epochs["ready"] > epochs["processed"]:
        reason = "the run stopped within an epoch, whose other batches this would change"
        refused |= {name: reason for name in changed if name.startswith(WITHIN_AN_EPOCH)}
    for name, reason in refused.items():
        raise UserError(f"--{_change(name, changed[name])}: {reason}; leave it as it was, or start a new run")
    changes = ", ".join(_change(*item) for item in changed.items())
    return f"resuming with changed settings: {changes}" if changes else None


def _change(name: str, values: tuple[Any, Any]) -> str:
    before, now = (shorten(str(value), 60) for value in values)
    return f"{name.replace('.init_args', '')} {before} → {now}"


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
        if 0 <= trainer.max_steps < checkpoint["global_step"]:
            raise UserError(
                f"--trainer.max_steps={trainer.max_steps}: the run that is resumed has done"
                f" {checkpoint['global_step']} steps already"
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
