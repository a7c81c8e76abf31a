"""A model from elsewhere made to take pixels in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
    """``model`` behind its own normalisation: pixels (N, C, H, W) in [0, 1] in, logits out.

    The layers of ``model`` keep the names it knows them by: ``layer="features.12"`` works on the wrapped
    model too. The normalisation is the layer ``normalize``.

    Args:
        model: a classifier that wants normalised images.
        mean: of each channel, in pixel units.
        std: of each channel, in pixel units.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Pixels in [0, 1] -> logits."""
        return self.model(self.normalize(x))
