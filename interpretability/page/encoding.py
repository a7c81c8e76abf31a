"""Numbers and pictures as text that a page can hold."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LEVELS = 32767


def pack(values: Tensor) -> dict[str, object]:
    """An array for the page's ``unpack``: 16-bit integers in base64, to be multiplied by ``scale``.

    Integers are kept exactly; numbers are rounded to 1/32767 of the largest magnitude.
    """
    values = values.detach().cpu()
    scale = 1.0
    if values.is_floating_point():
        scale = float(values.abs().max()) / LEVELS or 1.0
        values = (values / scale).round()
    data = values.numpy().astype("<i2").tobytes()
    return {"shape": list(values.shape), "scale": scale, "data": base64.b64encode(data).decode()}


def picture(image: Tensor) -> str:
    """An image (C, H, W) in [0, 1] as a data URI, without loss."""
    return _uri(_pil(image), "PNG", optimize=True)


def sheet(pictures: Sequence[Tensor], columns: int, quality: int = 86, effort: int = 4) -> str | None:
    """Pictures (C, H, W) of one size side by side in rows of ``columns``, as one data URI; None for none.

    More ``effort`` (0 to 6) makes it smaller and takes longer.
    """
    if not pictures:
        return None
    channels, height, width = pictures[0].shape
    rows = -(-len(pictures) // columns)
    canvas = torch.zeros(channels, rows * height, columns * width)
    for index, one in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        canvas[:, top : top + height, left : left + width] = one
    return _uri(_pil(canvas), "WEBP", quality=quality, method=effort)


def overlay(weights: Tensor, positive: Sequence[int], negative: Sequence[int]) -> str:
    """A map (H, W) in [-1, 1] as colour with transparency: colour by sign, opacity by magnitude."""
    weights = weights.detach().cpu()
    rgba = torch.empty(*weights.shape, 4, dtype=torch.uint8)
    rgba[..., :3] = torch.tensor(positive, dtype=torch.uint8)
    rgba[..., :3][weights < 0] = torch.tensor(negative, dtype=torch.uint8)
    rgba[..., 3] = (weights.abs().clamp(max=1) * 255).round().to(torch.uint8)
    return _uri(Image.fromarray(rgba.numpy(), "RGBA"), "WEBP", quality=70, alpha_quality=70, method=4)


def _pil(image: Tensor) -> Image.Image:
    levels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(levels.permute(1, 2, 0).squeeze(2).numpy()))


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
