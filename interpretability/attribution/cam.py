"""Class activation maps by gradients: GradCAM, GradCAM++, and GradCAM's guided form."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interpretability.attribution.base import Attribution
from interpretability.attribution.rectified import GuidedBackprop
from interpretability.gradients import gradient_at
from interpretability.targets import Target


class ActivationMap(Attribution):
    """Σₖ wₖ aₖ over the channels of a layer, cut off at zero: (N, 1, h, w).

    Args:
        model: see :class:`Attribution`.
        layer: dotted name of a layer with outputs (N, C, h, w), usually the last such.
        relu: keep only what speaks for the target, as the papers do.

    Raises:
        ValueError: no layer given, or one whose output is no map.
    """

    layer: str
    needs_layer = True

    def __init__(self, model: nn.Module, layer: str | None = None, relu: bool = True):
        super().__init__(model, layer)
        self.relu = relu

    def weighted(self, activation: Tensor, weights: Tensor) -> Tensor:
        """Σₖ wₖ aₖ of ``activation`` (N, C, h, w) and ``weights`` (N, C, 1, 1)."""
        summed = (weights * activation).sum(dim=1, keepdim=True)
        return summed.clamp(min=0) if self.relu else summed


class GradCAM(ActivationMap):
    """Channels weighted by their mean gradient   eq. 4.1, 4.2.

    Selvaraju et al. 2017, "Grad-CAM", equations 1 and 2.
    """

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward pass, and one backward pass down to the layer."""
        activation, gradient = gradient_at(self.model, self.layer, x, target)
        return self.weighted(check_map(activation, self.layer), gradient.mean(dim=(2, 3), keepdim=True))


class GradCAMPlusPlus(ActivationMap):
    """Channels weighted by their positive gradients, each position by how much it can explain   eq. 4.3, 4.4.

    Chattopadhay et al. 2018, "Grad-CAM++", equations 10 and 19: for the score exp(s), whose common positive
    factor is left out because it only scales each map, and overflows.
    """

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward pass, and one backward pass down to the layer."""
        activation, gradient = gradient_at(self.model, self.layer, x, target)
        total = check_map(activation, self.layer).sum(dim=(2, 3), keepdim=True)
        denominator = 2 + total * gradient  # g² cancelled: the powers of small gradients underflow
        alpha = torch.where(denominator == 0, 0, 1 / denominator)
        weights = (alpha * gradient.clamp(min=0)).sum(dim=(2, 3), keepdim=True)
        return self.weighted(activation, weights)


class GuidedGradCAM(ActivationMap):
    """Guided backpropagation at the input times the upsampled GradCAM: the shape of ``x``   eq. 4.5.

    Selvaraju et al. 2017, "Grad-CAM", section 3.2. Raises as :class:`GuidedBackprop` does.
    """

    additive = False

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """GradCAM's two passes down to the layer, and guided backpropagation's two to the input."""
        cam = GradCAM(self.model, self.layer, relu=self.relu).attribute(x, target)
        return GuidedBackprop(self.model).attribute(x, target) * upsampled(cam, x)


def check_map(activation: Tensor, layer: str) -> Tensor:
    """``activation``, or a ValueError where it is no map (N, C, h, w)."""
    if activation.ndim != 4:
        raise ValueError(f"layer {layer!r} gives {tuple(activation.shape)}; a class activation map needs (N, C, h, w)")
    return activation


def upsampled(maps: Tensor, x: Tensor) -> Tensor:
    """``maps`` (N, C, h, w) at the height and width of ``x``, bilinearly."""
    return F.interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False)
