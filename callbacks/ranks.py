"""Several processes of one run."""

from typing import Any

import torch
from lightning import Trainer


def of_all_ranks(trainer: Trainer, value: Any) -> list[Any]:
    """``value`` of every rank, in order; every rank must come through here."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values
