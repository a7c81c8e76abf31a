"""Random views of an image: what is to be recognised must survive a small shift, zoom and turn."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Transform = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class RandomAffine:
    """Shift, zoom and turn each image about its centre by its own random amount, in one resampling (eq. 7.4).

    Args:
        jitter: largest shift in pixels, either way.
        scale: least and largest magnification.
        rotation: largest angle in degrees, either way.
        black: what comes in at the border is black; it is mirrored otherwise.
    """

    jitter: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    black: bool = False

    def __post_init__(self) -> None:
        if self.jitter < 0 or self.rotation < 0 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"jitter and rotation must not be negative, and 0 < low <= high in scale: {self}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (N, C, H, W) -> views of the same shape."""
        n, _, height, width = images.shape
        shift_x, shift_y, zoom, turn = torch.rand(4, n, generator=generator, dtype=images.dtype)
        zoom = self.scale[0] + (self.scale[1] - self.scale[0]) * zoom
        turn = math.radians(self.rotation) * (2 * turn - 1)
        # grid_sample wants, in coordinates from -1 to 1, where each pixel of the view is taken from
        cos, sin = turn.cos() / zoom, turn.sin() / zoom
        dx, dy = 2 * self.jitter * (2 * shift_x - 1) / width, 2 * self.jitter * (2 * shift_y - 1) / height
        rows = [torch.stack([cos, -sin * height / width, dx], 1), torch.stack([sin * width / height, cos, dy], 1)]
        grid = F.affine_grid(torch.stack(rows, 1).to(images.device), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="zeros" if self.black else "reflection", align_corners=False)


@dataclass(frozen=True)
class Margin:
    """Put each image on black with a margin of so many pixels: for networks whose images always have one."""

    pixels: int

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, H + 2 pixels, W + 2 pixels)."""
        return F.pad(images, [self.pixels] * 4)


def default_transforms(height: int, width: int) -> tuple[Transform, ...]:
    """A shift of up to an eighth of the image, a zoom of 25 % and a turn of 15° either way."""
    return (RandomAffine(jitter=min(height, width) / 8, scale=(0.75, 1.25), rotation=15.0),)
