"""Convolution's formula next to its three derivatives.

Glossary beside that of `lit_models.functional`: ``x`` (N, C, H, W) maps, ``w`` (K, C, kh, kw) and ``b`` (K) the kernels
and biases, ``z`` (N, K, H', W') the output.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]

PORTION = 2**18  # values of patches that are multiplied at a time, so that they stay in a processor's cache
FEW_CHANNELS = 8


def pair(name: str, value: Any, least: int) -> Pair:
    """A whole number, or one for height and one for width; ValueError, naming it, where it is less than ``least``."""
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    whole = all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in values)
    if len(values) != 2 or not whole:
        raise ValueError(f"{name} must be a whole number of at least {least}, or two of them, not {value!r}")
    return values


def margins(padding: Any, kernel: Pair, stride: Pair = (1, 1)) -> Pair:
    """Rows and columns of zeros on each side: a number, two, ``valid`` (none) or ``same`` (half of an odd kernel)."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise ValueError(f"padding 'same' needs an odd kernel, not {kernel[0]}×{kernel[1]}")
        return kernel[0] // 2, kernel[1] // 2
    if isinstance(padding, str):
        raise ValueError(f"unknown padding {padding!r}; there are: same, valid, or numbers")
    return pair("padding", padding, 0)


def check_fit(size: Pair, kernel: Pair, margin: Pair) -> None:
    """Raise ValueError where a kernel is larger than the padded image."""
    if any(side + 2 * m < k for side, k, m in zip(size, kernel, margin)):
        raise ValueError(
            f"a kernel of {kernel[0]}×{kernel[1]} does not fit maps of {size[0]}×{size[1]} with padding {margin}"
        )


class ConvCache(NamedTuple):
    """What convolution's backward functions need."""

    x: Tensor
    w: Tensor
    stride: Pair
    margin: Pair
    biased: bool


def conv_forward(
    x: Tensor, w: Tensor, b: Tensor | None = None, stride: int | Pair = 1, padding: int | Pair | str = 0
) -> tuple[Tensor, ConvCache]:
    """``z[q] = Σᵤ w[u] x[s q + u − p] + b`` at each place q (eq. 1.23): x (N, C, H, W) -> z (N, K, H', W')."""
    if x.dim() != 4 or w.dim() != 4 or x.shape[1] != w.shape[1]:
        raise ValueError(f"kernels {tuple(w.shape)} do not fit maps {tuple(x.shape)}: (K, C, kh, kw), (N, C, H, W)")
    kernel: Any = tuple(w.shape[2:])
    step = pair("stride", stride, 1)
    margin = margins(padding, kernel, step)
    check_fit((x.shape[2], x.shape[3]), kernel, margin)
    return F.conv2d(x, w, b, step, margin), ConvCache(x, w, step, margin, b is not None)


def conv_backward(dz: Tensor, cache: ConvCache) -> tuple[Tensor, ...]:
    """The gradients of kernels and, if there are any, biases: those of a linear layer on all patches (eq. 1.23)."""
    x, w, stride, margin, biased = cache
    k, c, kh, kw = w.shape
    dz = dz.permute(0, 2, 3, 1)  # (N, H', W', K)
    dw = w.new_zeros(kh * kw * c, k)  # in full precision, whatever the patches have
    windows = patches(x, (kh, kw), stride, margin)
    portion = max(1, PORTION * len(x) // windows.numel())  # images
    for window, d in zip(windows.split(portion), dz.split(portion)):
        dw = dw + as_columns(window) @ d.flatten(0, 2)  # (kh kw C, K) += (kh kw C, n H' W')(n H' W', K)   eq. 1.23
    dw = dw.T.reshape(k, kh, kw, c).permute(0, 3, 1, 2)  # (K, C, kh, kw)
    return (dw, dz.sum((0, 1, 2))) if biased else (dw,)  # db (K)   eq. 1.23


def patches(x: Tensor, kernel: Pair, stride: Pair, margin: Pair) -> Tensor:
    """A view of what lies under the kernel at each place of the output: (N, C, H, W) -> (N, H', W', kh, kw, C)."""
    if margin != (0, 0):
        x = F.pad(x, (margin[1], margin[1], margin[0], margin[0]))
    return x.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1]).permute(0, 2, 3, 4, 5, 1)


def as_columns(window: Tensor) -> Tensor:
    """(n, H', W', kh, kw, C) -> (kh kw C, n H' W'), copied in the order that has the longer runs."""
    if window.shape[-1] < FEW_CHANNELS:
        return window.permute(3, 4, 5, 0, 1, 2).flatten(3).flatten(0, 2)
    return window.flatten(3).flatten(0, 2).T


def conv_input_backward(dz: Tensor, cache: ConvCache) -> Tensor:
    """``dx``: ``dz`` correlated with the turned kernel, for each remainder of the stride apart (eq. 1.27)."""
    x, w, (down, right), (top, left), _ = cache
    n, c, height, width = x.shape
    size = (n, c, height + 2 * top, width + 2 * left)
    dx = torch.empty(size, dtype=dz.dtype, device=dz.device, memory_format=torch.channels_last).zero_()
    for i in range(min(down, w.shape[2])):
        for j in range(min(right, w.shape[3])):
            turned = w[:, :, i::down, j::right].flip(2, 3).transpose(0, 1)  # (C, K, …)
            part = F.conv2d(dz, turned, padding=(turned.shape[2] - 1, turned.shape[3] - 1))  # eq. 1.27
            dx[:, :, i::down, j::right][:, :, : part.shape[2], : part.shape[3]] = part
    return dx[:, :, top : top + height, left : left + width]  # (N, C, H, W)
