"""Class activation maps that weigh every place, or every channel by what it holds: LayerCAM, XGradCAM, HiResCAM."""

import torch
from torch import Tensor

from interpretability.attribution.cam import ActivationMap
from interpretability.layers import capture
from interpretability.maps import as_maps
from interpretability.targets import Target, target_scores


class LayerCAM(ActivationMap):
    """Each place of each channel weighted by its own gradient where that is positive   eq. 4.9.

    Jiang et al. 2021, "LayerCAM: exploring hierarchical class activation maps", equations 5 to 7. Made for early
    layers too, whose channels mean different things at different places.
    """

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward pass, and one backward pass down to the layer."""
        activation, gradient = self.maps_and_gradients(x, target)
        return self.weighted(activation, gradient.clamp(min=0))


class HiResCAM(ActivationMap):
    """Each place of each channel weighted by its own gradient   eq. 4.10.

    Draelos and Carin 2020, "HiResCAM", equation 2: without ``relu`` it sums to the score, less the bias, wherever the
    score is linear in the layer.
    """

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward pass, and one backward pass down to the layer."""
        return self.weighted(*self.maps_and_gradients(x, target))


class XGradCAM(ActivationMap):
    """Channels weighted by their gradient, averaged with the activation itself as weight   eq. 4.11.

    Fu et al. 2020, "Axiom-based Grad-CAM", equation 8. A channel whose activations sum to 0 has weight 0.
    """

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward pass, and one backward pass down to the layer."""
        activation, gradient = self.maps_and_gradients(x, target)
        total = activation.sum(dim=(2, 3), keepdim=True)
        mean = (activation * gradient).sum(dim=(2, 3), keepdim=True) / torch.where(total == 0, 1, total)
        return self.weighted(activation, torch.where(total == 0, 0, mean))


class EigenCAM(ActivationMap):
    """The places along the first principal direction of the channels   eq. 4.12.

    Muhammad and Yeasin 2020, "Eigen-CAM", equations 3 and 4. It does not depend on the target, only on what the layer
    sees. The direction's sign is the one in which the map sums to something positive.
    """

    @torch.no_grad()
    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward pass, and the first singular vector of each sample."""
        with capture(self.model, [self.layer]) as outputs:
            target_scores(self.model(x.clone()), target)  # which it does not depend on, but checks
        activation = as_maps(self.model, self.layer, x, outputs[self.layer], self.maps)
        rows = activation.flatten(2).transpose(1, 2)  # (N, hw, C)
        exact = rows if rows.dtype == torch.float64 else rows.float()
        first = torch.linalg.svd(exact, full_matrices=False).Vh[:, 0].to(rows)  # (N, C)
        projected = torch.einsum("npc,nc->np", rows, first)
        projected = torch.where(projected.sum(dim=1, keepdim=True) < 0, -projected, projected)
        return self.weighted(
            projected.view(len(x), 1, *activation.shape[2:]), torch.ones_like(projected[:1, :1, None, None])
        )
