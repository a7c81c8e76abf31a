"""Images in [0, 1] as functions of free parameters, so that gradient ascent needs no bounds.

An image is ``sigmoid(M · values)`` with ``M`` the colours' correlation (eq. 7.2); ``values`` are the
parameters themselves (`Pixels`) or the inverse Fourier transform of a scaled spectrum (`Fourier`, eq. 7.3).
Both can be set to a given image with ``encode``.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

INITIAL_SPREAD = 0.01
NEAREST_TO_BLACK = 1e-3  # an encoded image keeps this distance from 0 and 1, whose logits are infinite

# A root M of the colours' covariance M Mᵀ over ImageNet, largest column norm 1 (Lucid's `color.py`).
COLOR_CORRELATION = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOR_CORRELATION = COLOR_CORRELATION / COLOR_CORRELATION.norm(dim=0).max()


class Parameterization(nn.Module):
    """``free`` parameters of shape (N, …) -> images (N, C, H, W) in [0, 1].

    Args:
        shape: (N, C, H, W). Three channels are decorrelated RGB colours; any other number is taken plain.
        generator: source of the faint noise that the images start from; grey when None.
    """

    free: nn.Parameter
    colors: Tensor

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        channels = shape[1]
        self.register_buffer("colors", COLOR_CORRELATION.clone() if channels == 3 else torch.eye(channels))

    def values(self) -> Tensor:
        """The decorrelated, unbounded image (N, C, H, W)."""
        raise NotImplementedError

    def invert(self, values: Tensor) -> Tensor:
        """The free parameters whose `values` are these."""
        raise NotImplementedError

    def forward(self) -> Tensor:
        """The images (N, C, H, W) in [0, 1]; eq. 7.2."""
        return torch.einsum("dc,nchw->ndhw", self.colors, self.values()).sigmoid()

    @torch.no_grad()
    def encode(self, images: Tensor) -> None:
        """Set the parameters so that `forward` gives ``images`` (N, C, H, W), the inverse of eq. 7.2."""
        logits = images.to(self.colors).logit(NEAREST_TO_BLACK)
        self.free.copy_(self.invert(torch.einsum("cd,ndhw->nchw", torch.linalg.inv(self.colors), logits)))


class Pixels(Parameterization):
    """Every pixel is a parameter: the plain choice, in which high frequencies come to dominate."""

    def __init__(self, shape: Sequence[int], generator: torch.Generator | None = None):
        super().__init__(shape)
        self.free = nn.Parameter(_noise(shape, generator))

    def values(self) -> Tensor:  # noqa: D102
        return self.free

    def invert(self, values: Tensor) -> Tensor:  # noqa: D102
        return values


class Fourier(Parameterization):
    """The spectrum's coefficients are the parameters, scaled by 1/frequency (Olah et al. 2017; eq. 7.3).

    The images are the same set as with `Pixels`; steepest ascent takes another way through them, on which
    no frequency is favoured over natural images' 1/f.
    """

    scale: Tensor

    def __init__(self, shape: Sequence[int], generator: torch.Generator | None = None):
        super().__init__(shape)
        *leading, self.height, self.width = shape
        side = max(self.height, self.width)
        rows = torch.fft.fftfreq(self.height)[:, None] * side
        columns = torch.fft.rfftfreq(self.width)[None, :] * side
        cycles = torch.hypot(rows, columns)  # per longer side of the image
        self.register_buffer("scale", 1 / (4 * cycles.clamp(min=1.0))[..., None])
        self.free = nn.Parameter(_noise([*leading, *cycles.shape, 2], generator))

    def values(self) -> Tensor:  # noqa: D102
        spectrum = torch.view_as_complex(self.free * self.scale)
        return torch.fft.irfft2(spectrum, s=(self.height, self.width), norm="forward")

    def invert(self, values: Tensor) -> Tensor:  # noqa: D102
        return torch.view_as_real(torch.fft.rfft2(values, norm="forward")) / self.scale


def _noise(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    return INITIAL_SPREAD * torch.randn(*shape, generator=generator) if generator else torch.zeros(*shape)


PARAMETERIZATIONS: dict[str, Callable[[Sequence[int], torch.Generator | None], Parameterization]] = {
    "fourier": Fourier,
    "pixel": Pixels,
}
