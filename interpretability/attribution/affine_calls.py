"""The affine maps that calls of ``torch.nn.functional`` stand for, read from their arguments."""

from collections.abc import Sequence

from torch import Tensor

from interpretability.attribution.lrp_rules import Convolution, Linear
from interpretability.attribution.operations import UnsupportedOperation


def read_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Linear:
    """``F.linear``."""
    return Linear(weight, bias)


def read_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Convolution:
    """``F.conv1d`` and its kin.

    Raises:
        UnsupportedOperation: padding that is not the same on both sides.
    """
    dimensions = weight.ndim - 2
    stride, dilation = _per_axis(stride, dimensions), _per_axis(dilation, dimensions)
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:])]
        if any(size % 2 for size in total):
            raise UnsupportedOperation("LRP has no rule for a convolution with padding='same' and an even kernel")
        padding = [size // 2 for size in total]
    bias = None if bias is None else bias.view(-1, *[1] * dimensions)
    return Convolution(weight, bias, input.shape, stride, _per_axis(padding, dimensions), dilation, groups)


def _per_axis(value: int | Sequence[int], dimensions: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dimensions if len(values) == 1 else values


def read_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel, eq. 5.7."""
    if training or running_mean is None or running_var is None:
        raise UnsupportedOperation("LRP has no rule for a batch norm without running statistics: it mixes samples")
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale
    return scale, shift if bias is None else shift + bias
