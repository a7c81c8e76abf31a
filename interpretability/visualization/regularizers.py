"""Penalties on an image: each maps images (N, C, H, W) to one number per image (N,), to be kept small."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

Regularizer = Callable[[Tensor], Tensor]


def total_variation(weight: float) -> Regularizer:
    """Weight × the sum of absolute differences between neighbours (eq. 7.5): flat areas, sharp edges."""

    def penalty(images: Tensor) -> Tensor:
        return weight * (images.diff(dim=-1).abs().sum((1, 2, 3)) + images.diff(dim=-2).abs().sum((1, 2, 3)))

    return penalty


def l1(weight: float, background: float = 0.5) -> Regularizer:
    """Weight × the sum of absolute differences from a ``background`` value (eq. 7.6): nothing needless is drawn."""
    return lambda images: weight * (images - background).abs().sum((1, 2, 3))


def blur(weight: float) -> Regularizer:
    """Weight × half the squared difference from the image smoothed by 3 × 3 (eq. 7.7): no checkerboards.

    The smoothed image counts as a constant, so the gradient pulls each pixel to its neighbours' mean.
    """

    def penalty(images: Tensor) -> Tensor:
        smooth = F.avg_pool2d(F.pad(images.detach(), (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return weight * 0.5 * (images - smooth).square().sum((1, 2, 3))

    return penalty
