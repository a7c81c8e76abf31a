"""Small modules that the models are built of."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lit_models import functional


class Normalize(nn.Module):
    """(x − mean) / std for each channel, or for everything when one number is given (eq. 1.20).

    Args:
        mean: a number, or one for each of dimension 1.
        std: likewise, positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0):
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.get_default_dtype()))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.get_default_dtype()))
        if not np.all(np.asarray(std) > 0):  # not of the buffer, which has no value on the meta device
            raise ValueError(f"std must be positive, not {std}")

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        shape = (-1, *[1] * (x.dim() - 2)) if self.mean.dim() else ()
        return (x - self.mean.view(shape)) / self.std.view(shape)

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"mean={self.mean.tolist()}, std={self.std.tolist()}"


class Dropout(nn.Module):
    """Inverted dropout while training, with the project's own mask (eq. 2.10)."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, a: Tensor) -> Tensor:
        """Same shape as ``a``."""
        return functional.dropout_forward(a, self.p)[0] if self.training and self.p > 0 else a

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"p={self.p}"
