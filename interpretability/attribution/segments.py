"""Which elements of an input count as one player: label maps of pixels, patches and superpixels."""

from collections.abc import Callable

import torch
from torch import Tensor

from interpretability.attribution.batches import at_least

Segments = int | Tensor | Callable[[Tensor], Tensor] | None
PER_SIDE = 8  # patches along the longer side in a picture


def patches(point: Tensor, side: int) -> Tensor:
    """Labels (H, W) of squares of ``side`` pixels over all channels of images ``point`` (N, C, H, W), row by row."""
    if point.ndim != 4:
        raise ValueError(f"patches are of images (N, C, H, W); got {tuple(point.shape)}")
    at_least("side", side, 1)
    height, width = (torch.arange(size, device=point.device) // side for size in point.shape[2:])
    return height[:, None] * (int(width[-1]) + 1) + width


def superpixels(x: Tensor, count: int) -> Tensor:
    """Labels (N, 1, H, W) of about ``count`` superpixels of each image (N, C, H, W) in [0, 1], by SLIC.

    Achanta et al. 2012, "SLIC superpixels". Needs scikit-image, the optional extra ``segments``.
    """
    try:
        from skimage.segmentation import slic
    except ImportError:
        raise ValueError("superpixels need scikit-image: pip install 'backlit[segments]'") from None
    at_least("segments", count, 1)
    if x.ndim != 4:
        raise ValueError(f"superpixels are of images (N, C, H, W); got {tuple(x.shape)}: give segments= a label map")
    options = {"n_segments": count, "start_label": 0, "compactness": 10.0 if x.shape[1] == 3 else 0.1}
    images = x.detach().cpu().double().movedim(1, -1).numpy()
    found = [torch.from_numpy(slic(image, channel_axis=-1, **options)) for image in images]
    return torch.stack(found)[:, None].to(x.device)


def for_pictures(point: Tensor) -> Tensor:
    """The players of a picture: at most 8 × 8 patches of maps, the tokens, else every element."""
    if point.ndim == 4:
        return patches(point, max(1, -(-max(point.shape[2:]) // PER_SIDE)))
    if point.ndim == 3:
        return torch.arange(point.shape[1], device=point.device)[:, None]
    return torch.arange(point[0].numel(), device=point.device).view(point.shape[1:])


def label_maps(segments: Segments, point: Tensor) -> Tensor:
    """The player of each element: (1, E), or (N, E) where samples have maps of their own; E elements a sample.

    Args:
        segments: None for every element; a number of superpixels; a label map of whole numbers that broadcasts to
            a sample, or with a leading axis to the batch; or a function that makes one of the point.
        point: the batch (N, …) that is attributed to.
    """
    if segments is None:
        return torch.arange(point[0].numel(), device=point.device)[None]
    if isinstance(segments, int):
        segments = superpixels(point, segments)
    labels = segments if isinstance(segments, Tensor) else segments(point)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"segments must be a map of whole numbers; got {labels.dtype}")
    rows = len(point) if labels.ndim == point.ndim and len(labels) > 1 else 1
    try:
        return labels.to(point.device).expand(rows, *point.shape[1:]).flatten(1)
    except RuntimeError:
        raise ValueError(f"segments {tuple(labels.shape)} do not fit {tuple(point.shape)}") from None
