"""The one place that reads logits (N, K) out of what a classifier returns."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

HOW_TO_CHOOSE = "give PixelModel(…, output=) a function that makes logits (N, K) of it"


def logits_of(output: Any) -> Tensor:
    """Logits (N, K) from a model's output.

    A tensor is taken as it is; of a tuple or list the first tensor; of a mapping, dataclass or other object what is
    called ``logits``. A single logit z, (N,) or (N, 1), becomes the two classes (0, z), whose softmax is the sigmoid
    of z.

    Raises:
        TypeError: no tensor was found in ``output``.
        ValueError: the tensor is not (N, K).
    """
    found = _tensor_in(output)
    if found is None:
        raise TypeError(f"the model returned {_described(output)}, with no logits (N, K) in it; {HOW_TO_CHOOSE}")
    if found.ndim == 2 and found.shape[1] == 1:
        found = found.squeeze(1)
    if found.ndim == 1:
        return torch.stack([torch.zeros_like(found), found], dim=1)
    if found.ndim != 2:
        raise ValueError(f"the model returned a tensor {tuple(found.shape)}, not logits (N, K); {HOW_TO_CHOOSE}")
    return found


def are_logits(output: Any) -> bool:
    """Whether ``output`` needs no reading: a tensor (N, K) of at least two classes."""
    return isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] > 1


def _tensor_in(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    if isinstance(output, tuple | list):
        return next((value for value in output if isinstance(value, Tensor)), None)
    return None


def _described(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(map(str, output)) or 'nothing'}"
    if dataclasses.is_dataclass(output):
        return f"a {type(output).__name__} of {', '.join(field.name for field in dataclasses.fields(output))}"
    return f"a {type(output).__name__}"
