"""A model from elsewhere made to take pixels in [0, 1]."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interpretability.outputs import logits_of


class Normalize(nn.Module):
    """y = (x − mean) / std per channel, as a layer of its own so that relevance methods have a rule for it."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor):
        super().__init__()
        mean, std = (torch.as_tensor(values, dtype=torch.get_default_dtype()) for values in (mean, std))
        if mean.ndim != 1 or mean.shape != std.shape:
            shapes = f"{tuple(mean.shape)} and {tuple(std.shape)}"
            raise ValueError(f"mean and std need one number per channel; got shapes {shapes}")
        if not (std > 0).all():
            raise ValueError(f"std must be positive; got {std.tolist()}")
        self.register_buffer("mean", mean.clone().view(-1, 1, 1))
        self.register_buffer("std", std.clone().view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (N, C, H, W) in [0, 1] -> normalised, same shape."""
        if x.ndim != 4 or x.shape[1] != len(self.mean):
            raise ValueError(f"expected images (N, {len(self.mean)}, H, W); got {tuple(x.shape)}")
        return (x - self.mean) / self.std


class PixelModel(nn.Module):
    """``model`` behind its own normalisation: pixels (N, C, H, W) in [0, 1] in, logits (N, K) out.

    The layers of ``model`` keep the names it knows them by: ``layer="features.12"`` works on the wrapped
    model too. The normalisation is the layer ``normalize``.

    Args:
        model: a classifier that wants normalised images.
        mean: of each channel, in pixel units; None where the model takes pixels as they are.
        std: of each channel, in pixel units; None likewise.
        output: makes logits (N, K) of what ``model`` returns; by default
            :func:`~interpretability.outputs.logits_of`, which knows tuples, mappings and single logits.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float] | Tensor | None = None,
        std: Sequence[float] | Tensor | None = None,
        output: Callable[[Any], Tensor] | None = None,
    ):
        super().__init__()
        plain = mean is None and std is None
        if not plain:
            mean = torch.zeros(len(std)) if mean is None else mean  # type: ignore[arg-type]
            std = torch.ones(len(mean)) if std is None else std
        self.normalize = nn.Identity() if plain else Normalize(mean, std)  # type: ignore[arg-type]
        self.model = model
        self.output = output or logits_of
        if plain and output is None and offers_input_gradient(model):
            self.input_gradient: Any = model.input_gradient  # a model with its own formulas is asked for them here too

    def forward(self, x: Tensor) -> Tensor:
        """Pixels in [0, 1] -> logits."""
        return self.output(self.model(self.normalize(x)))


def offers_input_gradient(model: nn.Module) -> bool:
    """Whether a model wants its input gradients computed by itself."""
    return callable(getattr(model, "input_gradient", None)) and getattr(model, "explicit_gradients", True)
