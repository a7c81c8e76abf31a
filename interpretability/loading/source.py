"""What a source of models tells of one: the network, how it wants its images, what its classes are called."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from interpretability.images import ImageReader
from interpretability.loading.weights import load_weights

Numbers = Sequence[float] | None
Arguments = Mapping[str, Any]
PRETRAINED = "DEFAULT"
USUAL = ImageReader((224, 224), (256, 256))


@dataclass(frozen=True)
class Source:
    """A network and what is known of it.

    ``mean`` and ``std`` are None where it takes pixels as they are; ``class_names`` where nobody says;
    ``input_shape`` is (C, H, W).
    """

    model: nn.Module
    mean: Numbers
    std: Numbers
    read: ImageReader | Callable[[str | Path], Tensor]
    input_shape: tuple[int, int, int]
    class_names: Sequence[str] | None


def optional(module: str, extra: str) -> ModuleType:
    """The optional library; a ValueError with the command that installs it where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(
            f"{module} is not installed: pip install 'backlit[{extra}]', or pip install {module}"
        ) from None


def load_file(model: nn.Module, weights: str | Path | None) -> None:
    """Load weights from a file, if one was named."""
    if weights is None or weights == PRETRAINED:
        return
    if not Path(weights).is_file():
        raise FileNotFoundError(f"weights {str(weights)!r}: no such file; {PRETRAINED} downloads the model's own")
    load_weights(model, weights)


def pair(value: Any) -> tuple[int, int] | None:
    """A side, or height and width (the last two), as both; None where it is neither."""
    if isinstance(value, int):
        return value, value
    return (int(value[-2]), int(value[-1])) if isinstance(value, Sequence) and len(value) >= 2 else None
