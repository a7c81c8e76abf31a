"""FullGrad: the part of the input and the part of every bias in the score, laid over one another."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interpretability.attribution.base import Attribution
from interpretability.attribution.cam import upsampled
from interpretability.gradients import UNRELATED, copied_from
from interpretability.layers import layer_names
from interpretability.maps import Maps, as_maps
from interpretability.pixel_model import PixelModel
from interpretability.targets import Target, check_logits, target_scores

ROUNDING = 64  # units in the last place of a layer's largest output, below which a bias is none


class FullGrad(Attribution):
    """ψ(x · ∂score/∂x) + Σ ψ(b · ∂score/∂z) over all layers with a bias b, ψ the scaled size: (N, 1, H, W)   eq. 4.14.

    Srinivas and Fleuret 2019, "Full-gradient representation for neural network visualization", equation 6. A bias is
    what the output z of a layer is beyond its linearisation, z − J·input   eq. 4.15: of convolutions and batch norms
    their bias, of smooth activations what they add. In a network of such layers and ReLUs the terms of
    :meth:`decomposition` sum to the score. The class of the paper's "aggregation" has no sign.

    Args:
        model: on images (N, C, H, W). Of a :class:`PixelModel`, the normalised image counts as its input.
        layer: None; the map belongs to the image.
        maps: how to read layers as maps, where the model does not tell.
    """

    additive = False
    input_only = True

    def __init__(self, model: nn.Module, layer: str | None = None, maps: Maps = None):
        super().__init__(model, layer)
        self.maps = maps

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward and one backward pass, and each layer's linearisation."""
        if x.ndim != 4:
            raise ValueError(f"FullGrad takes images (N, C, H, W); got {tuple(x.shape)}")
        of_input, of_biases = self.decomposition(x, target)
        total = _scaled(of_input).sum(dim=1, keepdim=True)
        for name, values in of_biases:
            if values.ndim < 3 or not values.any():
                continue
            read = as_maps(self.model, name, x, values, self.maps)
            if read.shape[2] * read.shape[3] > 1:
                total = total + upsampled(_scaled(read), x).sum(dim=1, keepdim=True)
        return total

    def decomposition(self, x: Tensor, target: Target) -> tuple[Tensor, list[tuple[str, Tensor]]]:
        """The input's part of the score, of the shape of ``x``, and (layer, its biases' part) in the order they ran.

        For use inside :func:`~interpretability.layers.evaluating`.
        """
        leaf = x.detach().clone().requires_grad_()
        with _Recording(self.model) as runs:
            logits = self.model(leaf.clone())
        check_logits(logits, len(x))
        scores = target_scores(logits, target)
        runs = [run for run in runs if len(run.output) == len(x) and run.output.grad_fn is not None]
        if not scores.requires_grad:
            raise ValueError(UNRELATED)
        places: list[Any] = [leaf, *(copied_from(run.output) for run in runs)]
        gradient, *others = torch.autograd.grad(scores.sum(), places, allow_unused=True)
        if gradient is None:
            raise ValueError(UNRELATED)
        of_biases = [(run.name, run.bias() * g) for run, g in zip(runs, others) if g is not None]
        return (x - _mean(self.model)) * gradient, of_biases


@dataclass
class Run:
    """One run of a layer without parts: what went in, and a copy of what came out, with its history."""

    name: str
    module: nn.Module
    given: Tensor
    output: Tensor

    def bias(self) -> Tensor:
        """What the output is beyond its linearisation   eq. 4.15."""
        try:
            with torch.no_grad():
                linear = torch.func.jvp(self.module.forward, (self.given.clone(),), (self.given.clone(),))[1]
        except (RuntimeError, NotImplementedError) as error:
            raise ValueError(f"FullGrad cannot linearise layer {self.name!r}: {error}") from None
        output = self.output.detach()
        bias = output - linear
        per_sample = tuple(range(1, output.ndim))
        least = ROUNDING * torch.finfo(output.dtype).eps * output.abs().amax(dim=per_sample, keepdim=True)
        return torch.where(bias.abs().amax(dim=per_sample, keepdim=True) > least, bias, 0)


class _Recording(ExitStack):
    """Inside the block, every layer without parts leaves a :class:`Run` in the list that it yields."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.runs: list[Run] = []

    def __enter__(self) -> list[Run]:  # type: ignore[override]
        super().__enter__()
        names: dict[nn.Module, str] = {}
        inner = self.model.model if isinstance(self.model, PixelModel) else self.model
        for name in layer_names(self.model):
            names.setdefault(inner.get_submodule(name), name)
        for module, name in names.items():
            if not any(True for _ in module.children()):
                self.callback(module.register_forward_pre_hook(self._start).remove)
                self.callback(module.register_forward_hook(self._finish(name)).remove)
        return self.runs

    def _start(self, module: nn.Module, args: tuple) -> None:
        self.given = args[0].detach().clone() if len(args) == 1 and isinstance(args[0], Tensor) else None

    def _finish(self, name: str):
        def record(module: nn.Module, args: tuple, output: object) -> None:
            if self.given is not None and isinstance(output, Tensor) and self.given.is_floating_point():
                self.runs.append(Run(name, module, self.given, output.clone()))

        return record


def _mean(model: nn.Module) -> Tensor | float:
    """What a wrapper takes from the pixels before it scales them."""
    return getattr(model.normalize, "mean", 0.0) if isinstance(model, PixelModel) else 0.0


def _scaled(values: Tensor) -> Tensor:
    """ψ: sizes of ``values`` (N, …), from 0 for each sample's least to 1 for its largest."""
    size = values.abs()
    axes = tuple(range(1, size.ndim))
    low, high = size.amin(dim=axes, keepdim=True), size.amax(dim=axes, keepdim=True)
    return torch.where(high > low, (size - low) / torch.where(high > low, high - low, 1), 0)
