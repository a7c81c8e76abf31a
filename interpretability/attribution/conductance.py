"""Layer conductance: how much of the score flows through each unit of a hidden layer."""

import torch
from torch import Tensor, nn

from interpretability.attribution.base import Attribution
from interpretability.attribution.batches import at_least, checked_batch_size, in_batches
from interpretability.attribution.integrated import expanded
from interpretability.gradients import gradient_at
from interpretability.layers import check_rows
from interpretability.targets import Target, repeat_target, resolve_target


class LayerConductance(Attribution):
    """∫ ∂score/∂h dh along the straight path of the input from a baseline to ``x``, h the layer's output   eq. 5.12.

    Dhamdhere, Sundararajan, Yan 2018, "How important is a neuron?", equation 2, summed over the inputs. The
    integral is taken over h itself by the trapezoidal rule, both ends of the path included, so that its sum
    tends to score(x) − score(baseline) as 1/n_steps².

    Args:
        model: as for every attribution.
        layer: dotted module name; required.
        n_steps: intervals on the path; memory does not grow with them.
        baseline: a number, or a tensor that broadcasts to ``x``.
        batch_size: rows in a forward pass; by default as many as run fastest.

    Raises:
        ValueError: no layer is named, an unknown one, or fewer than one step.
    """

    needs_layer = True

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        n_steps: int = 50,
        baseline: float | Tensor = 0.0,
        batch_size: int | None = None,
    ):
        super().__init__(model, layer)
        self.n_steps = at_least("n_steps", n_steps, 1)
        self.baseline = baseline
        self.batch_size = checked_batch_size(batch_size)

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """n_steps + 1 forward and backward passes, in batches."""
        start = expanded(torch.as_tensor(self.baseline, dtype=x.dtype, device=x.device), x)
        if target is None:
            with torch.no_grad():
                target = resolve_target(self.model(x.clone()), None)
        alphas = torch.linspace(0, 1, self.n_steps + 1).to(x)

        def part(steps: slice) -> Tensor:
            k = len(alphas[steps])
            points = torch.lerp(start, x, alphas[steps].view(k, *[1] * x.ndim)).flatten(0, 1)  # (kN, …)
            h, gradient = gradient_at(self.model, self.layer, points, repeat_target(target, k))
            check_rows(h, self.layer, len(points))
            return torch.stack([h, gradient]).unflatten(1, (k, len(x)))  # (2, k, N, …)

        total, last = None, None
        for path in in_batches(len(alphas), x, self.batch_size, "layer conductance", part):
            path = path if last is None else torch.cat([last, path], dim=1)
            piece = _trapezoids(*path)
            total, last = piece if total is None else total + piece, path[:, -1:]
        assert total is not None
        return total


def _trapezoids(h: Tensor, gradient: Tensor) -> Tensor:
    """∫ gradient dh over a path given at (k, N, …) points: (N, …)   eq. 5.13."""
    return ((gradient[1:] + gradient[:-1]) / 2 * h.diff(dim=0)).sum(dim=0)
