"""What all attribution methods share: the model's state, the point they are about, and their input's checks.

A method is a class with one function, :meth:`Attribution.attribute`, which runs with the model in eval mode
and gradients on. With ``layer=None`` an attribution is about the input; with a dotted module name it is
about that layer's output, and has its shape. Both are "the point" in what follows.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from interpretability.devices import device_of
from interpretability.layers import evaluating, find_layer
from interpretability.targets import Target, check_target


class Attribution(ABC):
    """Attributes a score of ``model`` to its input, or to the output of ``layer``.

    Args:
        model: takes ``x`` (N, …), returns logits (N, K). It is evaluated in eval mode and comes back as it
            was: mode, ``requires_grad``, ``.grad`` and hooks, also after an exception.
        layer: dotted module name, or None for the input.

    Raises:
        ValueError: an unknown layer, none where the method needs one, or one where it takes none.
    """

    additive: ClassVar[bool] = True  # contributions, which may be summed; False: sensitivities, which may not
    needs_layer: ClassVar[bool] = False  # about a layer only, never the input
    input_only: ClassVar[bool] = False  # about the input only, never a layer

    def __init__(self, model: nn.Module, layer: str | None = None):
        if layer is None and self.needs_layer:
            raise ValueError(f"{type(self).__name__} needs a layer: name one with layer=")
        if layer is not None and self.input_only:
            raise ValueError(f"{type(self).__name__} explains the input, not a layer: leave layer= out")
        if layer is not None:
            find_layer(model, layer)
        self.model = model
        self.layer = layer

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """The attribution, raw and unscaled, of the shape of what it is about.

        Args:
            x: a batch (N, …), floating point.
            target: a class index, one per sample (N,), a callable ``logits -> (N,)``, or None for the
                predicted class; see :mod:`interpretability.targets`.

        ``x`` may lie on any device: it goes to the model's, and the attribution comes back on that of ``x``.

        Raises:
            ValueError: NaN or infinite values in ``x``, or no samples; a target out of range; a layer that does
                not run or runs twice.
        """
        check_input(x)
        target = check_target(target, len(x))
        origin = x.device
        with evaluating(self.model):
            x = (x.clone() if x.is_inference() else x.detach()).to(device_of(self.model) or origin)
            return self.attribute(x, target).detach().to(origin)

    @abstractmethod
    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """The method itself; called inside :func:`~interpretability.layers.evaluating`."""


def check_input(x: Tensor) -> None:
    """Raise unless ``x`` is a batch of finite floating-point samples."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor; got {type(x).__name__}")
    if not x.is_floating_point() or x.ndim < 2:
        raise ValueError(f"x must be a batch (N, …) of floating-point samples; got {x.dtype}, shape {tuple(x.shape)}")
    if not len(x):
        raise ValueError(f"x holds no samples; got shape {tuple(x.shape)}")
    if not math.isfinite(x.detach().sum()):  # one pass; only a doubtful sum is worth looking at every value
        broken = ~torch.isfinite(x).flatten(1).all(dim=1)
        if broken.any():
            raise ValueError(f"x holds NaN or infinite values (first in sample {int(broken.nonzero()[0])})")
