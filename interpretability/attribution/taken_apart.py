"""Operations written out in simpler ones, each of which has a rule of its own.

What LRP and DeepLift know how to go through are sums, elementwise functions, products, softmax and normalisation.
Attention, gated units, norms, powers' means and others are made of these; here they are taken apart, and the parts are
seen one by one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Axes = int | list[int] | tuple[int, ...] | None


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q·kᵀ · scale + mask) · v."""
    if dropout_p:
        raise ValueError(f"dropout of attention is on in eval mode, with p = {dropout_p}; pass 0 where not training")
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
    if is_causal:
        attn_mask = query.new_ones(query.shape[-2], key.shape[-2]).tril().bool()
    return _attention_weights(query, key, attn_mask, scale) @ value


def _attention_weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(mask.logical_not(), -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1)


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``nn.MultiheadAttention`` of (T, N, E), or (T, E): projections, attention in each head, projection."""
    if bias_k is not None or bias_v is not None or add_zero_attn or static_k is not None or static_v is not None:
        raise ValueError("MultiheadAttention with add_bias_kv, add_zero_attn or static keys has no rule")
    if dropout_p and training:
        raise ValueError("dropout of MultiheadAttention is on in eval mode")
    batched = query.ndim == 3
    if use_separate_proj_weight:
        weights = [q_proj_weight, k_proj_weight, v_proj_weight]
    else:
        assert in_proj_weight is not None
        weights = list(in_proj_weight.chunk(3))
    biases = [None] * 3 if in_proj_bias is None else list(in_proj_bias.chunk(3))
    heads = []
    for x, weight, bias in zip((query, key, value), weights, biases):
        assert weight is not None
        projected = F.linear(x if batched else x.unsqueeze(1), weight, bias)
        heads.append(projected.unflatten(2, (num_heads, -1)).permute(1, 2, 0, 3))  # (N, heads, T, E / heads)
    mask = _mask(attn_mask, key_padding_mask, heads[0])
    attention = _attention_weights(heads[0], heads[1], mask)
    together = (attention @ heads[2]).permute(2, 0, 1, 3).flatten(2)
    out = F.linear(together, out_proj_weight, out_proj_bias)
    shown = attention.mean(dim=1) if need_weights and average_attn_weights else attention
    shown = shown if batched else shown.squeeze(0)
    return (out if batched else out.squeeze(1)), (shown if need_weights else None)


def _mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, query: Tensor) -> Tensor | None:
    """Both masks as what is added to the scores; True masks, unlike in ``scaled_dot_product_attention``."""
    total = None
    if attn_mask is not None and attn_mask.ndim == 3:
        attn_mask = attn_mask.view(-1, query.shape[1], *attn_mask.shape[1:])
    if key_padding_mask is not None:
        key_padding_mask = key_padding_mask.view(-1, 1, 1, key_padding_mask.shape[-1])
    for mask in (attn_mask, key_padding_mask):
        if mask is not None:
            if mask.dtype == torch.bool:
                mask = query.new_zeros(mask.shape).masked_fill(mask, -torch.inf)
            total = mask if total is None else total + mask
    return total


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """One half of the channels times the sigmoid of the other."""
    a, b = input.chunk(2, dim)
    return a * b.sigmoid()


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """The softmax of −x."""
    return F.softmax(-input, dim=dim, dtype=dtype)


def log_softmax(
    input: Tensor, dim: int, _stacklevel: int | torch.dtype = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """X − log Σ exp x."""
    x = input if dtype is None else input.to(dtype)
    return x - x.logsumexp(dim, keepdim=True)


def norm(
    x: Tensor, p: float | str | None = 2, dim: Axes = None, keepdim: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """As ``torch.norm``: :func:`vector_norm`, also where its order is called "fro"."""
    return vector_norm(x, 2.0 if p is None or p == "fro" else float(p), dim, keepdim, dtype=dtype)


def vector_norm(
    x: Tensor, ord: float = 2, dim: Axes = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    """(Σ |x|ᵖ)^(1/p) over ``dim``."""
    p = float(ord)
    axes = tuple(range(x.ndim)) if dim is None else dim
    x = x if dtype is None else x.to(dtype)
    if p == 2:
        return x.square().sum(axes, keepdim=keepdim).sqrt()
    if p == 1:
        return x.abs().sum(axes, keepdim=keepdim)
    if math.isinf(p):
        return x.abs().amax(axes, keepdim=keepdim) if p > 0 else -(-x.abs()).amax(axes, keepdim=keepdim)
    return x.abs().pow(p).sum(axes, keepdim=keepdim).pow(1 / p)


def normalize(input: Tensor, p: float = 2.0, dim: Axes = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    """X / max(‖x‖ₚ, ε)."""
    return input / vector_norm(input, p, dim, keepdim=True).clamp(min=eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The scalar product of both, each divided by its length."""
    a, b = (x / vector_norm(x, 2, dim, keepdim=True).clamp(min=eps) for x in (x1, x2))
    return (a * b).sum(dim)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """X / (k + α · mean of x² over ``size`` neighbouring channels)^β."""
    squares = input.square().flatten(2).unsqueeze(1)  # (N, 1, C, L)
    padded = F.pad(squares, (0, 0, size // 2, (size - 1) // 2))
    means = F.avg_pool2d(padded, (size, 1), stride=1).squeeze(1)
    return input / (means * alpha + k).pow(beta).view(input.shape)


def lp_pool(pool: Callable[..., Tensor], axes: int) -> Callable[..., Tensor]:
    """(Σ over a window of xᵖ)^(1/p), by the average ``pool`` over as many ``axes``."""

    def pooled(
        input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
    ) -> Tensor:
        size = [kernel_size] * axes if isinstance(kernel_size, int) else list(kernel_size)
        summed = pool(input.pow(norm_type), size, stride or size, 0, ceil_mode).relu()
        return (summed * math.prod(size)).pow(1 / norm_type)

    return pooled


def var(
    x: Tensor,
    dim: Axes | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The mean square of what is left of the mean."""
    return var_mean(x, dim, unbiased, keepdim, correction=correction)[0]


def var_mean(
    x: Tensor,
    dim: Axes | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Variance and mean; the sum of squares is divided by their number − ``correction``."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    axes = tuple(range(x.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    correction = (1 if unbiased is None or unbiased else 0) if correction is None else correction
    mean = x.mean(axes, keepdim=True)
    count = math.prod(x.shape[axis] for axis in axes)
    variance = (x - mean).square().sum(axes, keepdim=True) / (count - correction)
    return (variance, mean) if keepdim else (_without(variance, axes), _without(mean, axes))


def _without(x: Tensor, axes: Sequence[int]) -> Tensor:
    kept = [size for axis, size in enumerate(x.shape) if axis not in {a % x.ndim for a in axes}]
    return x.reshape(kept)


def std(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The root of the variance."""
    return var(x, *args, **kwargs).sqrt()


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """X + value · t₁ · t₂."""
    return input + tensor1 * tensor2 * value


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """β x + α m₁ m₂."""
    product = mat1 @ mat2
    return (input if beta == 1 else input * beta) + (product if alpha == 1 else product * alpha)


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """X + w (end − x)."""
    return input + (end - input) * weight


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x₁ᵀ W x₂ for each output."""
    z = torch.einsum("...i,...ij->...j", input1, torch.einsum("...k,jik->...ij", input2, weight))
    return z if bias is None else z + bias


APART: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head_attention_forward,
    "glu": glu,
    "softmin": softmin,
    "log_softmax": log_softmax,
    "norm": norm,
    "vector_norm": vector_norm,
    "linalg_vector_norm": vector_norm,
    "normalize": normalize,
    "cosine_similarity": cosine_similarity,
    "local_response_norm": local_response_norm,
    "lp_pool1d": lp_pool(F.avg_pool1d, 1),
    "lp_pool2d": lp_pool(F.avg_pool2d, 2),
    "lp_pool3d": lp_pool(F.avg_pool3d, 3),
    "var": var,
    "std": std,
    "var_mean": var_mean,
    "addcmul": addcmul,
    "addmm": addmm,
    "baddbmm": addmm,
    "lerp": lerp,
    "bilinear": bilinear,
}
