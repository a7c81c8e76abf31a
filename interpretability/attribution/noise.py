"""SmoothGrad and VarGrad: mean and variance of the gradient under noise on the input."""

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor, nn

from interpretability.attribution.base import Attribution
from interpretability.attribution.batches import BATCH_SIZE, at_least, batches
from interpretability.gradients import gradient_at
from interpretability.layers import check_rows
from interpretability.targets import Target, repeat_target, resolve_target


class _NoisyGradient(Attribution):
    """What SmoothGrad and VarGrad share: gradients at ``x`` + noise.

    Args:
        model: see :class:`Attribution`.
        layer: see :class:`Attribution`; the noise is on the input in any case.
        n_samples: noisy copies of each sample.
        noise: standard deviation of the Gaussian noise, as a fraction of each sample's range max − min.
        seed: of the noise, which is the same for every sample of a batch and touches no global random state.
        batch_size: rows in a forward pass.
    """

    additive = False

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        n_samples: int = 25,
        noise: float = 0.15,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
    ):
        super().__init__(model, layer)
        if not noise >= 0:
            raise ValueError(f"noise must not be negative; got {noise}")
        self.n_samples = at_least("n_samples", n_samples, 1)
        self.noise, self.seed = noise, seed
        self.batch_size = at_least("batch_size", batch_size, 1)

    def gradients(self, x: Tensor, target: Target) -> Iterator[Tensor]:
        """Gradients at the noisy samples, in stacks (k, N, …) whose k add up to ``n_samples``   eq. 3.8."""
        if target is None:
            with torch.no_grad():
                target = resolve_target(self.model(x.clone()), None)
        flat = x.flatten(1)
        sigma = (self.noise * (flat.amax(dim=1) - flat.amin(dim=1))).view(-1, *[1] * (x.ndim - 1))
        generator = torch.Generator().manual_seed(self.seed)
        for samples in batches(self.n_samples, len(x), self.batch_size, type(self).__name__):
            k = samples.stop - samples.start
            noise = torch.stack([torch.randn(x.shape[1:], generator=generator) for _ in range(k)]).to(x)
            noisy = (x + sigma * noise[:, None]).flatten(0, 1)  # (kN, …)
            _, gradient = gradient_at(self.model, self.layer, noisy, repeat_target(target, k))
            check_rows(gradient, self.layer, len(noisy))
            yield gradient.view(k, len(x), *gradient.shape[1:])


class SmoothGrad(_NoisyGradient):
    """E[∂score/∂point (x + ε)]   eq. 3.8. Smilkov et al. 2017, "SmoothGrad", section 2."""

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """n_samples forward and backward passes in batches."""
        return reduce(torch.add, (stack.sum(dim=0) for stack in self.gradients(x, target))) / self.n_samples


class VarGrad(_NoisyGradient):
    """Var[∂score/∂point (x + ε)], the population variance   eq. 3.8.

    Adebayo et al. 2018, "Sanity checks for saliency maps", appendix.
    """

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """n_samples forward and backward passes in batches; sums about the first gradient, for precision."""
        origin, total, squares = None, x.new_zeros(()), x.new_zeros(())
        for stack in self.gradients(x, target):
            origin = stack[0] if origin is None else origin
            deviation = stack - origin
            total = total + deviation.sum(dim=0)
            squares = squares + deviation.square().sum(dim=0)
        return (squares / self.n_samples - (total / self.n_samples) ** 2).clamp(min=0)
