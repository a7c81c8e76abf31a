"""Stop when a metric no longer improves, and keep the weights of the best check."""

import copy
import difflib
import math
from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor


@dataclass
class StoppingRule:
    """The decision alone: feed it one value a check, it says whether to stop and why.

    ``best`` is the best finite value of all; ``reference`` is the value that the next one has to beat by
    ``min_delta`` to count as progress (eq. 10.5), so many improvements too small to count do not add up.
    """

    mode: Literal["min", "max"] = "min"
    patience: int = 10
    min_delta: float = 0.0
    relative: bool = False
    warmup: int = 0
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None
    check_finite: bool = True
    checks: int = 0
    waited: int = 0
    best: float | None = None
    reference: float | None = None

    def better(self, value: float, than: float | None, delta: float = 0.0) -> bool:
        """Whether a finite ``value`` beats ``than`` by more than ``delta``; eq. 10.5."""
        if not math.isfinite(value):
            return False
        if than is None:
            return True
        return value < than - delta if self.mode == "min" else value > than + delta

    def update(self, value: float) -> tuple[bool, str | None]:
        """Take the value of one check: (it is the best so far, the reason to stop or None)."""
        self.checks += 1
        is_best = self.better(value, self.best)
        if is_best:
            self.best = value
        delta = self.min_delta * (abs(self.reference or 0.0) if self.relative else 1.0)
        if self.better(value, self.reference, delta):
            self.reference, self.waited = value, 0
        elif self.checks > self.warmup:
            self.waited += 1
        return is_best, self.reason(value)

    def reason(self, value: float) -> str | None:
        """Why to stop after ``value``, or None; during warm-up neither patience nor divergence counts."""
        if self.check_finite and not math.isfinite(value):
            return "it is not finite"
        if self.stopping_threshold is not None and self.better(value, self.stopping_threshold):
            return f"it reached the threshold {self.stopping_threshold:g}"
        if self.checks <= self.warmup:
            return None
        if self.divergence_threshold is not None and self.better(self.divergence_threshold, value):
            return f"it is worse than the divergence threshold {self.divergence_threshold:g}"
        if self.waited >= self.patience:
            return f"no progress in {self.waited} checks"
        return None


class EarlyStopping(Callback):
    """Stop training when ``monitor`` makes no progress, and end with the best weights in memory.

    A *check* is the end of a validation run or, where there is none, of a training epoch: ``patience`` and
    ``warmup`` count checks, not epochs. However training ends (patience, ``max_epochs``, Ctrl-C), the module
    then holds the weights of the best check; checkpoints hold the last state, to resume from. Of several
    ranks the first one's value decides. A metric that the module logs in its own ``on_train_epoch_end``
    comes after this callback: log it in ``training_step`` with ``on_epoch=True`` instead. Before the Trainer's
    ``min_epochs`` and ``min_steps`` are reached no check stops the training; the first one after decides anew.

    Args:
        monitor: key of a logged metric.
        mode: whether it is to fall (``min``) or to rise (``max``).
        patience: stop after this many checks in a row without progress.
        min_delta: a change counts as progress when it is larger than this, or, with ``relative=True``,
            than this part of the value to beat.
        relative: see ``min_delta``.
        warmup: checks at the start that count neither for patience nor for divergence.
        stopping_threshold: stop once the metric is better than this.
        divergence_threshold: stop once the metric is worse than this.
        check_finite: stop at NaN or infinity; otherwise that is a check without progress. Never the best.
        restore_best: put the best weights back into memory at the end.
        check_on_train_epoch_end: True or False overrules when a check is made.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        patience: int = 10,
        min_delta: float = 0.0,
        relative: bool = False,
        warmup: int = 0,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_finite: bool = True,
        restore_best: bool = True,
        check_on_train_epoch_end: bool | None = None,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', not {mode!r}")
        for name, value, least in (("patience", patience, 1), ("min_delta", min_delta, 0), ("warmup", warmup, 0)):
            if not value >= least:
                raise ValueError(f"{name} must be at least {least}, not {value!r}")
        self.monitor = monitor
        self.rule = StoppingRule(
            mode, patience, min_delta, relative, warmup, stopping_threshold, divergence_threshold, check_finite
        )
        self.restore_best = restore_best
        self.check_on_train_epoch_end = check_on_train_epoch_end
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self.stop_reason: str | None = None
        self._best_weights: dict[str, Any] | None = None
        self._last_weights: dict[str, Any] | None = None

    @property
    def best_score(self) -> float | None:
        """The best finite value so far."""
        return self.rule.best

    @property
    def state_key(self) -> str:
        """Apart for each metric, so that several of these callbacks can be used together."""
        return self._generate_state_key(monitor=self.monitor, mode=self.rule.mode)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last weights of an earlier fit."""
        self._last_weights = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train nothing if the resumed run had stopped already, unless it is now asked to train for longer."""
        if self.stop_reason is None:
            return
        if not _may_end(trainer, epochs=trainer.current_epoch):
            self.stop_reason = self.stopped_epoch = None
            return
        trainer.should_stop = True
        rank_zero_info(
            f"EarlyStopping: nothing to train, it had stopped in epoch {self.stopped_epoch}:"
            f" {self.monitor}, {self.stop_reason}."
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check here where there is validation."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and not self._checks_training_epochs(trainer):
            self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check here where there is none."""
        if self._checks_training_epochs(trainer):
            self._check(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore: checkpoints are written by ``on_train_end``, so they hold the last state."""
        self._restore(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore, and keep the last weights for checkpoint callbacks, which come after this one."""
        if trainer.state.fn == TrainerFn.FITTING and self.restore_best and self._best_weights is not None:
            self._last_weights = copy_weights(pl_module)
            self._restore(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Once the best weights were restored after an interruption, still save the last ones."""
        if self._last_weights is not None:
            checkpoint["state_dict"] = self._last_weights

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and tensors: loads with ``weights_only=True``."""
        return {
            "checks": self.rule.checks,
            "waited": self.rule.waited,
            "best": self.rule.best,
            "reference": self.rule.reference,
            "best_epoch": self.best_epoch,
            "stopped_epoch": self.stopped_epoch,
            "stop_reason": self.stop_reason,
            "best_weights": self._best_weights,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; patience and the other settings are those of this object."""
        for name in ("checks", "waited", "best", "reference"):
            setattr(self.rule, name, state_dict[name])
        self.best_epoch = state_dict["best_epoch"]
        self.stopped_epoch, self.stop_reason = state_dict["stopped_epoch"], state_dict["stop_reason"]
        self._best_weights = state_dict["best_weights"]

    def _checks_training_epochs(self, trainer: Trainer) -> bool:
        if self.check_on_train_epoch_end is None:
            return not trainer.enable_validation
        return self.check_on_train_epoch_end

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        value = self._monitored(trainer)
        is_best, reason = self.rule.update(value)
        if is_best:
            self.best_epoch = trainer.current_epoch
            self._best_weights = copy_weights(pl_module) if self.restore_best else None
        epochs = trainer.current_epoch + int(trainer.is_last_batch)
        if reason is not None and _may_end(trainer, epochs):
            if self.stop_reason is None:
                self._announce(trainer, value, reason)
            self.stop_reason = reason
            trainer.should_stop = True

    def _monitored(self, trainer: Trainer) -> float:
        """The first rank's value, the same on all ranks; ValueError lists the metrics there are."""
        metrics = trainer.callback_metrics
        found = metrics.get(self.monitor)
        value = trainer.strategy.broadcast(None if found is None else float(found))
        if value is None:
            near = difflib.get_close_matches(self.monitor, metrics, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            logged = ", ".join(sorted(metrics)) or "none"
            raise ValueError(f"EarlyStopping monitors {self.monitor!r}, which is not logged; {hint}logged: {logged}")
        return value

    def _announce(self, trainer: Trainer, value: float, reason: str) -> None:
        self.stopped_epoch = trainer.current_epoch
        best = "never finite" if self.rule.best is None else f"best {self.rule.best:.6g} in epoch {self.best_epoch}"
        rank_zero_info(
            f"EarlyStopping: training stops in epoch {self.stopped_epoch}:"
            f" {self.monitor} = {value:.6g}, {reason} ({best})."
        )

    def _restore(self, pl_module: LightningModule) -> None:
        if self.restore_best and self._best_weights is not None:
            pl_module.load_state_dict(self._best_weights, strict=pl_module.strict_loading)


def _may_end(trainer: Trainer, epochs: int) -> bool:
    """Whether the Trainer's ``min_epochs`` and ``min_steps`` are reached once this many epochs are done."""
    return epochs >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)


def copy_weights(pl_module: LightningModule) -> dict[str, Any]:
    """A copy of the module's state on the CPU: tensors apart, plain data."""
    return {
        name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in pl_module.state_dict().items()
    }
