"""The formulas on maps (N, C, H, W) that are no convolution: pooling, batch norm, dropout, flattening.

Glossary beside that of `lit_models.functional`: ``g`` (C) and ``h`` (C) are batch norm's gain and shift. Pooling takes
any leading dimensions in the place of (N, C).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_models.functional_conv import Pair, check_fit, pair

# --- pooling ----------------------------------------------------------------------------------------------


def _windows(x: Tensor, size: int | Pair, stride: int | Pair | None, padding: int | Pair) -> tuple[Pair, Pair, Pair]:
    """Sides, stride and margins of pooling windows, which are disjoint by default."""
    sides = pair("the pooling window", size, 1)
    step = sides if stride is None else pair("stride", stride, 1)
    margin = pair("padding", padding, 0)
    if any(2 * m > side for m, side in zip(margin, sides)):
        raise ValueError(f"padding of pooling must be at most half of its window {sides}, not {margin}")
    check_fit((x.shape[-2], x.shape[-1]), sides, margin)
    return sides, step, margin


def max_pool_forward(
    x: Tensor, size: int | Pair, stride: int | Pair | None = None, padding: int | Pair = 0
) -> tuple[Tensor, tuple[Tensor, torch.Size]]:
    """``z`` is the largest x of each window (eq. 1.25): (…, H, W) -> (…, H', W'); of equals the first."""
    sides, step, margin = _windows(x, size, stride, padding)
    maps = x if x.dim() == 4 else x.reshape(-1, 1, *x.shape[-2:])
    z, places = F.max_pool2d(maps, sides, step, margin, return_indices=True)  # where each maximum stood
    shape = (*x.shape[:-2], *z.shape[-2:])
    return z.view(shape) if x.dim() != 4 else z, (places.view(shape) if x.dim() != 4 else places, x.shape)


def max_pool_backward(dz: Tensor, cache: tuple[Tensor, torch.Size]) -> Tensor:
    """``dz`` goes to the place of the maximum, and adds up where windows share it (eq. 1.25)."""
    places, shape = cache
    dx = dz.new_zeros(*shape[:-2], shape[-2] * shape[-1])
    return dx.scatter_add_(-1, places.flatten(-2), dz.flatten(-2)).view(shape)  # (…, H, W)   eq. 1.25


def average_pool_forward(
    x: Tensor, size: int | Pair, stride: int | Pair | None = None, padding: int | Pair = 0
) -> tuple[Tensor, tuple]:
    """``z`` is the mean of each window, the padding's zeros included (eq. 1.28): (…, H, W) -> (…, H', W')."""
    sides, step, margin = _windows(x, size, stride, padding)
    maps = x if x.dim() == 4 else x.reshape(-1, 1, *x.shape[-2:])
    z = F.avg_pool2d(maps, sides, step, margin)
    return z.view(*x.shape[:-2], *z.shape[-2:]), (x.shape, sides, step, margin)


def average_pool_backward(dz: Tensor, cache: tuple) -> Tensor:
    """Each place of a window takes the same share of its ``dz`` (eq. 1.28)."""
    shape, (kh, kw), (down, right), (top, left) = cache
    height, width = dz.shape[-2:]
    share = dz / (kh * kw)
    last = ((height - 1) * down + kh, (width - 1) * right + kw)  # one past the last window
    dx = dz.new_zeros(*shape[:-2], max(last[0], shape[-2] + 2 * top), max(last[1], shape[-1] + 2 * left))
    for i in range(kh):
        for j in range(kw):
            dx[..., i : i + height * down : down, j : j + width * right : right][..., :height, :width] += share
    return dx[..., top : top + shape[-2], left : left + shape[-1]]  # (…, H, W)   eq. 1.28


# --- batch norm -------------------------------------------------------------------------------------------


def _by_channel(values: Tensor) -> Tensor:
    return values[:, None, None]


class NormCache(NamedTuple):
    """What batch norm's backward needs; ``mean`` and ``variance`` are those that normalised."""

    x_hat: Tensor
    scale: Tensor  # 1 / √(v + ε)
    gain: Tensor
    mean: Tensor
    variance: Tensor


def batch_norm_forward(x: Tensor, gain: Tensor, shift: Tensor, eps: float = 1e-5) -> tuple[Tensor, NormCache]:
    """``z = g x̂ + h``, ``x̂ = (x − μ) / √(v + ε)`` by the batch's own statistics (eq. 1.24): (N, C, H, W)."""
    if x.numel() // x.shape[1] < 2:
        raise ValueError(f"batch norm needs more than one value a channel while training, got maps {tuple(x.shape)}")
    x = x.to(gain.dtype)  # statistics in the parameters' precision
    mean = x.mean((0, 2, 3))
    centred = x - _by_channel(mean)
    variance = centred.square().mean((0, 2, 3))
    scale = torch.rsqrt(variance + eps)
    x_hat = centred * _by_channel(scale)
    z = torch.addcmul(_by_channel(shift), x_hat, _by_channel(gain))
    return z, NormCache(x_hat, scale, gain, mean, variance)


def batch_norm_backward(dz: Tensor, cache: NormCache) -> tuple[Tensor, Tensor]:
    """The gradients of gain and shift (eq. 1.24), by either kind of statistics."""
    dg = (dz * cache.x_hat).sum((0, 2, 3))  # (C)   eq. 1.24
    dh = dz.sum((0, 2, 3))  # (C)   eq. 1.24
    return dg, dh


def batch_norm_input_backward(dz: Tensor, cache: NormCache, dg: Tensor, dh: Tensor) -> Tensor:
    """``dx``, through the batch's mean and variance too (eq. 1.24, by the steps of eq. 1.29)."""
    x_hat, scale, gain = cache[:3]
    n = dz.numel() // dz.shape[1]
    a = gain * scale  # a (dz − dh / n − x̂ dg / n), multiplied out for two passes over the maps
    dx = torch.addcmul(_by_channel(-a * dh / n), dz, _by_channel(a))
    return dx.addcmul_(x_hat, _by_channel(-a * dg / n))  # (N, C, H, W)   eq. 1.24


def follow_statistics(mean: Tensor, variance: Tensor, cache: NormCache, n: int, share: float) -> None:
    """Move the running statistics towards those of a batch of ``n`` values a channel, in place (eq. 1.30)."""
    mean.lerp_(cache.mean.to(mean.dtype), share)
    variance.lerp_((cache.variance * (n / (n - 1))).to(variance.dtype), share)


def running_norm_forward(
    x: Tensor, gain: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, eps: float = 1e-5
) -> tuple[Tensor, NormCache]:
    """``z = g x̂ + h`` by running statistics, which are constants (eq. 1.30)."""
    scale = torch.rsqrt(variance + eps)
    x_hat = (x.to(gain.dtype) - _by_channel(mean)) * _by_channel(scale)
    z = torch.addcmul(_by_channel(shift), x_hat, _by_channel(gain))
    return z, NormCache(x_hat, scale, gain, mean, variance)


def running_norm_input_backward(dz: Tensor, cache: NormCache) -> Tensor:
    """``dx = dz g / √(v + ε)`` (eq. 1.30)."""
    return dz * _by_channel(cache.gain * cache.scale)


# --- dropout and flatten ----------------------------------------------------------------------------------


def map_dropout_forward(a: Tensor, p: float, whole: bool = False) -> tuple[Tensor, Tensor]:
    """``a m`` with the mask of eq. 2.10, of single values or of ``whole`` maps.

    On a CPU it is drawn as `torch.nn.Dropout` and `torch.nn.Dropout2d` draw theirs: the same from one seed.
    """
    mask = a.new_empty(*a.shape[:2], 1, 1) if whole else torch.empty_like(a)
    mask.bernoulli_(1 - p).div_(1 - p)
    return a * mask, mask


def map_dropout_backward(d_out: Tensor, mask: Tensor) -> Tensor:
    """``da = d_out m`` (eq. 2.11)."""
    return d_out * mask


def flatten_forward(x: Tensor) -> tuple[Tensor, torch.Size]:
    """(N, …) -> (N, D): the same numbers in one row, an identity (eq. 1.5)."""
    return x.flatten(1), x.shape


def flatten_backward(d_out: Tensor, shape: torch.Size) -> Tensor:
    """Back into their places (eq. 1.5)."""
    return d_out.reshape(shape)
