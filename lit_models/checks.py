"""What a user can get wrong with explicit gradients: each refused in one line that names the value."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lit_models.functional import ACTIVATIONS, LOSSES
from lit_models.optimizers import OPTIMIZERS
from lit_models.schedules import SCHEDULES

PRECISIONS = ("32-true", "64-true", "bf16-mixed")
CLIPPING = ("norm", "value")
INTERVALS = ("step", "epoch")


class DivergedError(ValueError):
    """Training left the finite numbers; the last checkpoint is from before."""


def known(name: str, valid: Iterable[str], what: str) -> None:
    """Raise unless ``name`` is one of ``valid``, naming the nearest."""
    names = list(valid)
    if name not in names:
        close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"
        raise ValueError(f"unknown {what} {name!r}; {hint}")


def hyperparameters(h: Any) -> None:
    """The arguments of `LitMLP`."""
    known(h.activation, ACTIVATIONS, "activation")
    known(h.loss, LOSSES, "loss")
    known(h.optimizer, OPTIMIZERS, "optimizer")
    known(h.schedule, SCHEDULES, "schedule")
    known(h.schedule_interval, INTERVALS, "schedule_interval")
    known(h.gradient_clip_algorithm, CLIPPING, "gradient_clip_algorithm")
    sizes = {"input_shape": h.input_shape, "hidden": h.hidden, "num_outputs": (h.num_outputs,)}
    for name, values in sizes.items():
        if not all(isinstance(v, int) and v > 0 for v in values):
            raise ValueError(f"{name} must hold positive integers, not {getattr(h, name)}")
    if not h.input_shape:
        raise ValueError("input_shape must name at least one side, such as (1,)")
    clip = h.gradient_clip_val
    rules = [
        ("dropout", 0 <= h.dropout < 1, "in [0, 1)"),
        ("weight_decay", 0 <= h.weight_decay < math.inf, "at least 0"),
        ("learning_rate", 0 < h.learning_rate < math.inf, "positive"),
        ("momentum", 0 <= h.momentum < 1, "in [0, 1)"),
        ("nesterov", not h.nesterov or h.momentum > 0, "off without momentum"),
        ("gradient_clip_val", clip is None or clip > 0, "positive"),
        ("accumulate_grad_batches", h.accumulate_grad_batches >= 1, "at least 1"),
        ("std", h.std > 0, "positive"),
        ("num_outputs", h.loss != "cross_entropy" or h.num_outputs > 1, "at least 2 for cross_entropy"),
    ]
    for name, good, wanted in rules:
        if not good:
            raise ValueError(f"{name} must be {wanted}, not {getattr(h, name)}")


def trainer(trainer: Any, model: str) -> None:
    """The Trainer's options that explicit gradients cannot honour, ``model`` being the name of the module."""
    if trainer.state.fn != "fit":
        return
    for name, default in (("gradient_clip_val", (None, 0)), ("accumulate_grad_batches", (1,))):
        if getattr(trainer, name) not in default:
            raise ValueError(f"{model} steps by hand: give {name} to the model (model.{name}), not to the trainer")
    if trainer.precision not in PRECISIONS:
        raise ValueError(f"precision {trainer.precision!r} is not among {model}'s: {', '.join(PRECISIONS)}")
    sharded = type(trainer.strategy).__name__
    if trainer.world_size > 1 and "DDP" not in sharded:
        raise ValueError(f"{model} averages whole gradients over ranks: use strategy 'ddp', not {sharded}")


def input_shape(x: Tensor, shape: tuple[int, ...]) -> None:
    """Inputs are (N, *shape)."""
    if tuple(x.shape[1:]) != shape:
        raise ValueError(f"inputs of shape {tuple(x.shape)} do not fit input_shape {shape} (with N in front)")


def batch(x: Tensor, t: Tensor, shape: tuple[int, ...], num_outputs: int, loss: str) -> None:
    """Shapes, and the range of class labels."""
    input_shape(x, shape)
    if loss == "mse":
        if t.shape != (len(x), num_outputs):
            raise ValueError(f"targets of shape {tuple(t.shape)} do not fit; expected {(len(x), num_outputs)}")
    elif t.shape != (len(x),) or t.dtype != torch.long:
        raise ValueError(f"classes must be a LongTensor ({len(x)},), not {t.dtype} {tuple(t.shape)}")
    else:
        low, high = (int(v) for v in t.aminmax())
        if low < 0 or high >= num_outputs:
            wrong = low if low < 0 else high
            raise ValueError(f"class label {wrong} is not among the {num_outputs} classes 0 to {num_outputs - 1}")


def finite(values: Tensor, what: str) -> None:
    """Raise when ``values`` hold NaN or infinity; the sum of finite data is finite."""
    if not math.isfinite(values.sum()) and not bool((good := values.isfinite()).all()):
        where = tuple((~good).nonzero()[0].tolist())
        raise ValueError(f"the {what} hold {values[where].item()} at index {where}")


def diverged(loss: float, step: int) -> DivergedError:
    """The error for a loss that is no longer finite."""
    return DivergedError(f"the loss became {loss} at step {step}; try a smaller learning_rate")


def finite_weights(parameters: Iterable[Tensor], step: int) -> None:
    """Raise when an update overflowed."""
    for p in parameters:
        if not math.isfinite(p.detach().sum()) and not bool(p.isfinite().all()):
            raise DivergedError(f"the weights hold NaN or infinity after step {step}; try a smaller learning_rate")
