"""How visible a change to an image is, in numbers, and what random noise of the same energy would be."""

import torch
from torch import Tensor

HIGH_FREQUENCY = 0.25  # cycles per pixel; the highest along an axis is 0.5


def measure_noise(changed: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Figures of ``changed`` − ``x`` for each image (N,), both (N, C, H, W) in [0, 1] (eq. 8.9).

    ``linf`` and ``l2`` in pixel units; ``psnr`` in dB, infinite for no change; ``total_variation``, the mean
    absolute difference between neighbours; ``high_frequency_share``, the part of the energy above a quarter
    of a cycle per pixel (0 for no change).
    """
    noise = changed.double() - x.double()
    flat = noise.flatten(1)
    energy = torch.fft.fft2(noise).abs().square()
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64, device=x.device) for side in noise.shape[-2:])
    high = torch.hypot(rows[:, None], columns[None, :]) > HIGH_FREQUENCY
    share = (energy * high).sum((1, 2, 3)) / energy.sum((1, 2, 3)).clamp(min=torch.finfo(energy.dtype).tiny)
    return {
        "linf": flat.abs().amax(1),
        "l2": flat.norm(dim=1),
        "psnr": -10 * flat.square().mean(1).log10(),
        "total_variation": (noise.diff(dim=-1).abs().mean((1, 2, 3)) + noise.diff(dim=-2).abs().mean((1, 2, 3))) / 2,
        "high_frequency_share": share,
    }


def random_change(changed: Tensor, x: Tensor, seed: int = 0) -> Tensor:
    """``x`` with white Gaussian noise of the same L2 norm per image as ``changed`` − ``x``; not clipped."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(x.device)
    dims = tuple(range(1, x.ndim))
    wanted = (changed.double() - x.double()).square().sum(dims, keepdim=True).sqrt()
    return x.double() + noise * wanted / noise.square().sum(dims, keepdim=True).sqrt()
