"""Each operation's formula next to its derivative: everything that `LitMLP` computes.

`lit_models.functional_conv` and `lit_models.functional_maps` go on with those on images, for `LitCNN`.

Glossary, the same everywhere: ``x`` an input (…, N, D), ``w`` (…, K, D) and ``b`` (…, K) a layer's weights and
biases, ``z`` a pre-activation, ``a`` an activation, ``y`` (…, N, K) the network's output, ``t`` the target,
``p`` a dropout probability. ``dz`` always means ∂L/∂z and has the shape of ``z``. The dots stand for any
leading dimensions of the weights: that many independent networks, computed at once.

A forward function returns ``(out, cache)``; its backward takes ``(d_out, cache)``. 1/N appears once, in the
loss's backward. Equation numbers are those of ``docs/maths.md``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Layers = Sequence[tuple[Tensor, Tensor]]  # (w, b) of each layer, from the input to the output
Forward = Callable[[Tensor], tuple[Tensor, Any]]
Backward = Callable[[Tensor, Any], Tensor]

LEAKY_SLOPE = 0.01


# --- linear -----------------------------------------------------------------------------------------------


def linear_forward(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """``z = x wᵀ + b`` (eq. 1.1): (…, N, K) = (…, N, D)(…, D, K)."""
    if w.shape[-1] == 1:  # an outer product, many times cheaper than a matrix product of one column
        return torch.addcmul(b.unsqueeze(-2), x, w.mT), (x, w)
    if w.dim() == 2:
        return torch.addmm(b, x, w.T), (x, w)
    return x @ w.mT + b.unsqueeze(-2), (x, w)


def linear_backward(dz: Tensor, cache: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The gradients of weights and biases."""
    x, _ = cache
    dw = dz.mT @ x  # (…, K, D) = (…, K, N)(…, N, D)   eq. 1.2
    db = dz.sum(-2)  # (…, K)   eq. 1.3
    return dw, db


def linear_input_backward(dz: Tensor, cache: tuple[Tensor, Tensor]) -> Tensor:
    """The gradient of the input; apart, because the first layer's is wanted only for explanations."""
    _, w = cache
    return dz * w if dz.shape[-1] == 1 else dz @ w  # (…, N, D) = (…, N, K)(…, K, D)   eq. 1.4


# --- activations ------------------------------------------------------------------------------------------


def identity_forward(z: Tensor) -> tuple[Tensor, None]:
    """``a = z`` (eq. 1.5)."""
    return z, None


def identity_backward(da: Tensor, cache: None) -> Tensor:
    """``dz = da`` (eq. 1.5)."""
    return da


def relu_forward(z: Tensor) -> tuple[Tensor, Tensor]:
    """``a = max(z, 0)`` (eq. 1.6)."""
    a = z.clamp(min=0)
    return a, a


def relu_backward(da: Tensor, a: Tensor) -> Tensor:
    """``dz = da`` where a > 0, else 0 (eq. 1.6)."""
    return da * a.sign()


def leaky_relu_forward(z: Tensor) -> tuple[Tensor, Tensor]:
    """``a = z`` where z > 0, else 0.01 z (eq. 1.7)."""
    return torch.where(z > 0, z, LEAKY_SLOPE * z), z


def leaky_relu_backward(da: Tensor, z: Tensor) -> Tensor:
    """``dz = da`` where z > 0, else 0.01 da (eq. 1.7)."""
    return torch.where(z > 0, da, LEAKY_SLOPE * da)


def tanh_forward(z: Tensor) -> tuple[Tensor, Tensor]:
    """``a = tanh z`` (eq. 1.8)."""
    a = z.tanh()
    return a, a


def tanh_backward(da: Tensor, a: Tensor) -> Tensor:
    """``dz = da (1 − a²)`` (eq. 1.8)."""
    return torch.addcmul(da, da, a * a, value=-1)


def sigmoid_forward(z: Tensor) -> tuple[Tensor, Tensor]:
    """``a = σ(z) = 1 / (1 + e⁻ᶻ)`` (eq. 1.9)."""
    a = z.sigmoid()
    return a, a


def sigmoid_backward(da: Tensor, a: Tensor) -> Tensor:
    """``dz = da a (1 − a)`` (eq. 1.9)."""
    return da * (a - a * a)


def softplus_forward(z: Tensor) -> tuple[Tensor, Tensor]:
    """``a = ln(1 + eᶻ)``, without overflow (eq. 1.10)."""
    return torch.logaddexp(z, z.new_zeros(())), z


def softplus_backward(da: Tensor, z: Tensor) -> Tensor:
    """``dz = da σ(z)`` (eq. 1.10)."""
    return da * z.sigmoid()


def gelu_forward(z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """``a = z Φ(z)``, Φ the standard normal distribution function, exact (eq. 1.11; Hendrycks & Gimpel 2016)."""
    cdf = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    return z * cdf, (z, cdf)


def gelu_backward(da: Tensor, cache: tuple[Tensor, Tensor]) -> Tensor:
    """``dz = da (Φ(z) + z φ(z))``, φ the standard normal density (eq. 1.11)."""
    z, cdf = cache
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return da * (cdf + z * density)


def silu_forward(z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """``a = z σ(z)`` (eq. 1.12)."""
    s = z.sigmoid()
    a = z * s
    return a, (a, s)


def silu_backward(da: Tensor, cache: tuple[Tensor, Tensor]) -> Tensor:
    """``dz = da (σ(z) + a (1 − σ(z)))`` (eq. 1.12)."""
    a, s = cache
    return da * (s + a * (1 - s))


class Activation(NamedTuple):
    """A nonlinearity and its derivative."""

    forward: Forward
    backward: Backward


ACTIVATIONS = {
    "identity": Activation(identity_forward, identity_backward),
    "relu": Activation(relu_forward, relu_backward),
    "leaky_relu": Activation(leaky_relu_forward, leaky_relu_backward),
    "tanh": Activation(tanh_forward, tanh_backward),
    "sigmoid": Activation(sigmoid_forward, sigmoid_backward),
    "softplus": Activation(softplus_forward, softplus_backward),
    "gelu": Activation(gelu_forward, gelu_backward),
    "silu": Activation(silu_forward, silu_backward),
}


# --- dropout ----------------------------------------------------------------------------------------------


def dropout_forward(a: Tensor, p: float | Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """``a m``, the mask m being 0 with probability p, else 1 / (1 − p), so that E[m] = 1 (eq. 2.10).

    ``p`` may be a tensor (…, 1, 1) with a probability for each network; networks along whose dimension it has
    size 1 share their masks.
    """
    shape = (*p.shape[:-2], *a.shape[-2:]) if isinstance(p, Tensor) else a.shape
    noise = torch.rand(shape, generator=generator, dtype=a.dtype, device=a.device)
    mask = (noise >= p).to(a.dtype) / (1 - p)  # (…, N, K)
    return a * mask, mask


def dropout_backward(d_out: Tensor, mask: Tensor) -> Tensor:
    """``da = d_out m``, with the mask of the forward pass (eq. 2.11)."""
    return d_out * mask


# --- losses and penalty -----------------------------------------------------------------------------------


def mse_forward(y: Tensor, t: Tensor, share: Tensor | None = None) -> tuple[Tensor, tuple]:
    """Mean squared error over all of a network's elements (eq. 1.13): (…), one value for each network.

    ``share`` (…, N, 1) weighs the samples, 1/N each by default; 0 holds a sample out.
    """
    error = y - t
    if share is None:
        squares = error.square()
        return squares.mean() if error.dim() == 2 else squares.mean((-2, -1)), (error, None)
    return (share * error.square()).sum(-2).mean(-1), (error, share)


def mse_backward(cache: tuple) -> Tensor:
    """``dy = 2 (y − t) / (N K)`` (eq. 1.14)."""
    error, share = cache
    n, k = error.shape[-2:]
    return error * (2 / (n * k)) if share is None else error * (share * (2 / k))


def cross_entropy_forward(y: Tensor, t: Tensor) -> tuple[Tensor, tuple]:
    """Mean over the batch of −ln softmax(y)ₜ, by log-sum-exp (eq. 1.15); ``t`` holds classes (…, N)."""
    log_p = y - y.logsumexp(-1, keepdim=True)
    picked = log_p.gather(-1, t.unsqueeze(-1))
    return -picked.mean((-2, -1)), (log_p, t)


def cross_entropy_backward(cache: tuple) -> Tensor:
    """``dy = (softmax(y) − onehot(t)) / N`` (eq. 1.16)."""
    log_p, t = cache
    dy = log_p.exp()
    dy.scatter_add_(-1, t.unsqueeze(-1), dy.new_full((), -1.0).expand(*t.shape, 1))
    return dy.div_(t.shape[-1])


def smoothed_cross_entropy_forward(y: Tensor, t: Tensor, smoothing: float = 0.0) -> tuple[Tensor, tuple]:
    """−Σ t ln softmax(y), the target being (1 − s) onehot(t) + s / K (eq. 1.26): mean over the batch."""
    log_p = y - y.logsumexp(-1, keepdim=True)
    picked = log_p.gather(-1, t.unsqueeze(-1)).squeeze(-1)  # (…, N)
    return -((1 - smoothing) * picked + smoothing * log_p.mean(-1)).mean(-1), (log_p, t, smoothing)


def smoothed_cross_entropy_backward(cache: tuple) -> Tensor:
    """``dy = (softmax(y) − (1 − s) onehot(t) − s / K) / N`` (eq. 1.26)."""
    log_p, t, smoothing = cache
    dy = log_p.exp() - smoothing / log_p.shape[-1]
    dy.scatter_add_(-1, t.unsqueeze(-1), dy.new_full((), smoothing - 1).expand(*t.shape, 1))
    return dy.div_(t.shape[-1])


class Loss(NamedTuple):
    """A data term and its derivative."""

    forward: Callable[..., tuple[Tensor, tuple]]
    backward: Callable[[tuple], Tensor]


LOSSES = {
    "mse": Loss(mse_forward, mse_backward),
    "cross_entropy": Loss(cross_entropy_forward, cross_entropy_backward),
}


def penalty_forward(w: Tensor, weight_decay: float | Tensor) -> Tensor:
    """(λ/2) Σ w² (eq. 2.8): one value for each network; ``weight_decay`` is λ, a number or (…, 1, 1)."""
    return (w.square() * (0.5 * weight_decay)).sum((-2, -1))


def penalty_backward(w: Tensor, weight_decay: float | Tensor) -> Tensor:
    """λ w (eq. 2.9)."""
    return w * weight_decay
