"""What layer, group, instance and RMS normalisation have in common: y = w (x − μ) / σ + b, with μ, σ of ``axes``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalisation:
    """One call of a normalisation by the statistics of each sample.

    ``weight`` and ``bias`` broadcast to ``x``; ``groups`` are those of the channels, None if they are not split;
    ``centred`` is False if no mean is taken off.
    """

    axes: tuple[int, ...]
    eps: float
    weight: Tensor | None = None
    bias: Tensor | None = None
    groups: int | None = None
    centred: bool = True

    def split(self, x: Tensor) -> Tensor:
        """(N, C, …) -> (N, groups, C / groups, …): whatever shares its statistics lies along ``axes``."""
        return x if self.groups is None else x.unflatten(1, (self.groups, -1))

    def merge(self, x: Tensor) -> Tensor:
        """The reverse of :meth:`split`."""
        return x if self.groups is None else x.flatten(1, 2)

    def centre(self, x: Tensor) -> Tensor:
        """X − μ, of what is split; its own transpose."""
        return x - x.mean(self.axes, keepdim=True) if self.centred else x

    def inverse_deviation(self, centred: Tensor) -> Tensor:
        """1 / σ."""
        return (centred.square().mean(self.axes, keepdim=True) + self.eps).rsqrt()

    def weighted(self, x: Tensor) -> Tensor:
        """W · x."""
        return x if self.weight is None else x * self.weight


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Normalisation:
    return Normalisation(tuple(range(-len(normalized_shape), 0)), eps, weight, bias)


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Normalisation:
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return Normalisation(tuple(range(-len(normalized_shape), 0)), eps, weight, centred=False)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Normalisation:
    weight, bias = (_per_channel(values, input) for values in (weight, bias))
    return Normalisation(tuple(range(2, input.ndim + 1)), eps, weight, bias, groups=num_groups)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Normalisation:
    weight, bias = (_per_channel(values, input) for values in (weight, bias))
    return Normalisation(tuple(range(2, input.ndim)), eps, weight, bias)


def _per_channel(values: Tensor | None, x: Tensor) -> Tensor | None:
    return None if values is None else values.view(-1, *[1] * (x.ndim - 2))


NORMALISATIONS: dict[str, Callable[..., Normalisation]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
}


def running_statistics(args: tuple, kwargs: dict) -> bool:
    """Whether a call of ``F.instance_norm`` is that of a batch norm in eval mode: affine per channel."""
    return not kwargs.get("use_input_stats", args[5] if len(args) > 5 else True)


def functional_order(func: Callable, args: tuple) -> tuple:
    """The arguments of ``torch.batch_norm`` or ``torch.instance_norm`` in the order of ``torch.nn.functional``'s."""
    if getattr(func, "__module__", "") == "torch.nn.functional" or len(args) < 5:
        return args
    x, weight, bias, mean, variance, *rest = args
    return (x, mean, variance, weight, bias, *rest[:3])
