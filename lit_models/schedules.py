"""Learning-rate schedules, which manual optimisation has to make and advance itself."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

SCHEDULES: dict[str, Callable[[Optimizer, float, int], LRScheduler] | None] = {
    "constant": None,
    "cosine": lambda optimizer, _, total: CosineAnnealingLR(optimizer, total),
    "one_cycle": lambda optimizer, peak, total: OneCycleLR(optimizer, peak, total, cycle_momentum=False),
}


def make_schedule(name: str, optimizer: Optimizer, peak: float, trainer: Any, interval: str, every: int) -> dict:
    """What ``configure_optimizers`` returns for the schedule ``name`` over the whole run (eq. 2.15, 2.16).

    Raises ValueError where the run has no known length.
    """
    total = trainer.max_epochs
    if interval == "step":
        total = trainer.estimated_stepping_batches
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            total = -(-trainer.num_training_batches // every) * trainer.max_epochs
        if 0 < trainer.max_steps < total:
            total = trainer.max_steps
    if total is None or not 0 < total < float("inf"):
        raise ValueError(f"schedule {name!r} needs a run of known length: set max_epochs or max_steps")
    make = SCHEDULES[name]
    assert make is not None
    scheduler = make(optimizer, peak, int(total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}


def step_schedules(configs: Iterable[Any], interval: str, count: int) -> None:
    """Advance each schedule of this ``interval`` whose frequency divides ``count``, up to its end."""
    for config in configs:
        if config.interval == interval and count % config.frequency == 0:
            scheduler = config.scheduler
            if scheduler.last_epoch + 1 < getattr(scheduler, "total_steps", float("inf")):
                scheduler.step()
