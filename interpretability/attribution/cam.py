"""Class activation maps by gradients: GradCAM, GradCAM++, and GradCAM's guided form."""

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interpretability.attribution.base import Attribution
from interpretability.attribution.batches import checked_batch_size
from interpretability.attribution.rectified import GuidedBackprop
from interpretability.gradients import gradient_at
from interpretability.maps import Maps, as_maps
from interpretability.targets import Target


class ActivationMap(Attribution):
    """Σₖ wₖ aₖ over the channels of a layer, cut off at zero: (N, 1, h, w).

    Args:
        model: see :class:`Attribution`.
        layer: dotted name of a layer, usually the last with places; its output is read by
            :mod:`interpretability.maps`.
        relu: keep only what speaks for the target, as the papers do.
        maps: how to read the layer's output as maps, where the model does not tell.

    Raises:
        ValueError: no layer given, or one whose output has no reading as maps, or two.
    """

    layer: str
    needs_layer = True

    def __init__(self, model: nn.Module, layer: str | None = None, relu: bool = True, maps: Maps = None):
        super().__init__(model, layer)
        self.relu, self.maps = relu, maps

    def maps_and_gradients(self, x: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """The layer's maps a and ∂score/∂a, both (N, C, h, w)."""
        activation, gradient = gradient_at(self.model, self.layer, x, target)
        a, g = (as_maps(self.model, self.layer, x, one, self.maps) for one in (activation, gradient))
        if gradient.any() and not g.any():
            warnings.warn(f"the score depends on no place of layer {self.layer!r}; name an earlier one", stacklevel=4)
        return a, g

    def weighted(self, activation: Tensor, weights: Tensor) -> Tensor:
        """Σₖ wₖ aₖ of ``activation`` (N, C, h, w) and ``weights`` (N, C, 1, 1)."""
        summed = (weights * activation).sum(dim=1, keepdim=True)
        return summed.clamp(min=0) if self.relu else summed


class ChannelByChannel(ActivationMap):
    """An activation map that asks the model about each channel.

    Args:
        model, layer, relu, maps: see :class:`ActivationMap`.
        batch_size: rows in a forward pass; by default as many as run fastest.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        relu: bool = True,
        maps: Maps = None,
        batch_size: int | None = None,
    ):
        super().__init__(model, layer, relu, maps)
        self.batch_size = checked_batch_size(batch_size)


class GradCAM(ActivationMap):
    """Channels weighted by their mean gradient   eq. 4.1, 4.2.

    Selvaraju et al. 2017, "Grad-CAM", equations 1 and 2.
    """

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward pass, and one backward pass down to the layer."""
        activation, gradient = self.maps_and_gradients(x, target)
        return self.weighted(activation, gradient.mean(dim=(2, 3), keepdim=True))


class GradCAMPlusPlus(ActivationMap):
    """Channels weighted by their positive gradients, each position by how much it can explain   eq. 4.3, 4.4.

    Chattopadhay et al. 2018, "Grad-CAM++", equations 10 and 19: for the score exp(s), whose common positive
    factor is left out because it only scales each map, and overflows.
    """

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward pass, and one backward pass down to the layer."""
        activation, gradient = self.maps_and_gradients(x, target)
        total = activation.sum(dim=(2, 3), keepdim=True)
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
        cam = GradCAM(self.model, self.layer, self.relu, self.maps).attribute(x, target)
        return GuidedBackprop(self.model).attribute(x, target) * upsampled(cam, x)


def upsampled(maps: Tensor, x: Tensor) -> Tensor:
    """``maps`` (N, C, h, w) at the height and width of images ``x``, bilinearly; (N, C, L) for signals (N, C', L)."""
    if x.ndim not in (3, 4):
        raise ValueError(f"maps can be laid over images (N, C, H, W) and signals (N, C, L), not over {tuple(x.shape)}")
    size = (1, *x.shape[2:])[-2:]
    enlarged = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return enlarged.squeeze(2) if x.ndim == 3 else enlarged
