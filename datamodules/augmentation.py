"""Random affine (and elastic) distortion of a whole batch at once."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class RandomAffine:
    """A fresh rotation, shift, scale and shear for every image of the batch, in one ``grid_sample`` (eq. 2.17).

    Args:
        degrees: rotation, uniform in ±degrees.
        translate: shift, uniform in ±translate of the image's side.
        scale: size factor, uniform in 1 ± scale; below 1.
        shear: horizontal shear in degrees, uniform in ±shear.
        elastic: amplitude in pixels of a smooth random displacement (Simard, Steinkraus & Platt 2003); 0 for none.
        elastic_cells: the displacement is drawn on a grid of this many cells a side and interpolated.

    Raises:
        ValueError: a negative range, or ``scale`` of 1 or more.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        translate: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        elastic: float = 0.0,
        elastic_cells: int = 4,
    ):
        ranges = {"degrees": degrees, "translate": translate, "scale": scale, "shear": shear, "elastic": elastic}
        for name, value in ranges.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if scale >= 1:
            raise ValueError(f"scale must be below 1, got {scale}")
        if elastic_cells < 1:
            raise ValueError(f"elastic_cells must be at least 1, got {elastic_cells}")
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear
        self.elastic, self.elastic_cells = elastic, elastic_cells

    def matrices(self, n: int, like: Tensor) -> Tensor:
        """(n, 2, 3) maps from output to input coordinates, both in [−1, 1]: rotation · shear / scale, and a shift."""
        # one draw on the CPU for every number needed: the same augmentation whatever the device
        u = (2 * torch.rand(5, n, dtype=torch.float64) - 1).to(like)
        angle, shear = math.radians(self.degrees) * u[0], torch.tan(math.radians(self.shear) * u[1])
        cos, sin, size = torch.cos(angle), torch.sin(angle), 1 + self.scale * u[2]
        row_x = torch.stack([cos, cos * shear - sin, 2 * self.translate * u[3]], dim=-1)
        row_y = torch.stack([sin, sin * shear + cos, 2 * self.translate * u[4]], dim=-1)
        theta = torch.stack([row_x, row_y], dim=1)
        theta[:, :, :2] /= size[:, None, None]
        return theta

    def __call__(self, images: Tensor) -> Tensor:
        """Distort float ``images`` (N, C, H, W), angles kept where they are not square; outside lies 0."""
        n, _, height, width = images.shape
        theta = self.matrices(n, images)
        theta[:, 0, 1] *= height / width
        theta[:, 1, 0] *= width / height
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        if self.elastic:
            cells = self.elastic_cells + 3
            coarse = torch.randn(n, 2, cells, cells, dtype=torch.float64).to(images)
            smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
            pixels = images.new_tensor([2 / width, 2 / height])
            grid = grid + self.elastic * pixels * smooth.permute(0, 2, 3, 1)
        return F.grid_sample(images, grid, align_corners=False)
