"""What a user can get wrong with ``LitCNN``: each option refused in one line that names it."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from lit_models.stages import Downsampling, Padding

Schedule = Literal["one_cycle", "constant"]
Gradients = Literal["autograd", "explicit"]
Clipping = Literal["norm", "value"]


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise ValueError, naming the option, unless ``low <= value < high``."""
    if not low <= value < high:
        raise ValueError(f"{name} must be in [{low}, {high}), got {value}")


def per_stage(convs: int | Sequence[int], channels: Sequence[int]) -> Sequence[int]:
    """The convolutions of each stage, where one number stands for all; ValueError where there are more or fewer."""
    counts = [convs] * len(channels) if isinstance(convs, int) else list(convs)
    if len(counts) != len(channels):
        raise ValueError(f"convs_per_stage must be one number or one for each of {len(channels)} stages, got {convs}")
    return counts


def check_whole(name: str, value: Any) -> None:
    """Raise ValueError, naming the option, unless ``value`` is an integer or holds nothing but integers."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{name} must be whole numbers, got {value!r}")


def check_options(h: Any) -> None:
    """Raise ValueError, naming the option, where the arguments of ``LitCNN`` are out of range."""
    for name in ("input_shape", "num_outputs", "channels", "kernel_size", "convs_per_stage", "hidden"):
        check_whole(name, h[name])
    check_range("dropout", h.dropout, 0, 1)
    check_range("stage_dropout", h.stage_dropout, 0, 1)
    check_range("label_smoothing", h.label_smoothing, 0, 1)
    check_range("weight_decay", h.weight_decay, 0)
    check_range("learning_rate", h.learning_rate, 0)
    check_range("the smallest of convs_per_stage", min(per_stage(h.convs_per_stage, h.channels), default=1), 1)
    for name in ("hidden", "num_outputs", "kernel_size"):
        check_range(name, h[name], 1)
    check_range("the smallest of channels", min(h.channels, default=1), 1)
    if len(h.betas) != 2 or not all(0 <= beta < 1 for beta in h.betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {list(h.betas)}")
    if len(h.input_shape) != 3 or min(h.input_shape) < 1:
        raise ValueError(f"LitCNN takes images of input_shape (C, H, W), got {tuple(h.input_shape)}")
    for name in ("mean", "std"):
        if np.size(h[name]) not in (1, h.input_shape[0]):
            raise ValueError(
                f"{name} must be one number, or one for each of {h.input_shape[0]} channels, got {h[name]}"
            )
    if not np.all(np.asarray(h.std) > 0):
        raise ValueError(f"std must be above 0, got {h.std}")
    if h.kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {h.kernel_size}")
    choices = {
        "schedule": Schedule,
        "padding": Padding,
        "downsampling": Downsampling,
        "gradients": Gradients,
        "gradient_clip_algorithm": Clipping,
    }
    for name, kinds in choices.items():
        if h[name] not in get_args(kinds):
            raise ValueError(f"unknown {name} {h[name]!r}; there are: {', '.join(get_args(kinds))}")
    check_manual_options(h)


def check_manual_options(h: Any) -> None:
    """Raise ValueError, naming the option, where what belongs to explicit gradients is wrong or has no effect."""
    check_whole("accumulate_grad_batches", h.accumulate_grad_batches)
    check_range("accumulate_grad_batches", h.accumulate_grad_batches, 1)
    if h.gradient_clip_val is not None and not 0 < h.gradient_clip_val < math.inf:
        raise ValueError(f"gradient_clip_val must be positive, got {h.gradient_clip_val}")
    for name, default in (("gradient_clip_val", None), ("accumulate_grad_batches", 1)):
        if h.gradients == "autograd" and h[name] != default:
            raise ValueError(f"{name} of the model is for gradients='explicit'; by autograd give it to the trainer")
