"""SmoothGrad and VarGrad: mean and variance of the gradient under noise on the input."""

from collections.abc import Callable, Iterator
from functools import reduce

import torch
from torch import Tensor, nn

from interpretability.attribution.base import Attribution
from interpretability.attribution.batches import at_least, checked_batch_size, in_batches
from interpretability.gradients import gradient_at, summed_gradient
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
        batch_size: rows in a forward pass; by default as many as run fastest.
    """

    additive = False

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        n_samples: int = 25,
        noise: float = 0.15,
        seed: int = 0,
        batch_size: int | None = None,
    ):
        super().__init__(model, layer)
        if not noise >= 0:
            raise ValueError(f"noise must not be negative; got {noise}")
        self.n_samples = at_least("n_samples", n_samples, 1)
        self.noise, self.seed = noise, seed
        self.batch_size = checked_batch_size(batch_size)

    def over_noise(self, x: Tensor, target: Target, evaluate: Callable[[Tensor, Target], Tensor]) -> Iterator[Tensor]:
        """``evaluate`` of noisy samples in stacks (kN, …), whose k add up to ``n_samples``   eq. 3.8."""
        if target is None:
            with torch.no_grad():
                target = resolve_target(self.model(x.clone()), None)
        flat = x.flatten(1)
        sigma = (self.noise * (flat.amax(dim=1) - flat.amin(dim=1))).view(-1, *[1] * (x.ndim - 1))
        generator = torch.Generator().manual_seed(self.seed)
        states = {0: generator.get_state()}  # before each stack, which may have to be drawn again

        def part(samples: slice) -> Tensor:
            k = samples.stop - samples.start
            generator.set_state(states[samples.start])
            noise = torch.stack([torch.randn(x.shape[1:], generator=generator) for _ in range(k)]).to(x)
            states[samples.stop] = generator.get_state()
            return evaluate((x + sigma * noise[:, None]).flatten(0, 1), repeat_target(target, k))

        return in_batches(self.n_samples, x, self.batch_size, type(self).__name__, part)


class SmoothGrad(_NoisyGradient):
    """E[∂score/∂point (x + ε)]   eq. 3.8. Smilkov et al. 2017, "SmoothGrad", section 2."""

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """n_samples forward and backward passes in batches."""
        share = x.new_full((self.n_samples,), 1 / self.n_samples)

        def part(noisy: Tensor, targets: Target) -> Tensor:
            return summed_gradient(self.model, self.layer, noisy, targets, share[: len(noisy) // len(x)])

        return reduce(torch.add, self.over_noise(x, target, part))


class VarGrad(_NoisyGradient):
    """Var[∂score/∂point (x + ε)], the population variance   eq. 3.8.

    Adebayo et al. 2018, "Sanity checks for saliency maps", appendix.
    """

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """n_samples forward and backward passes in batches; sums about the first gradient, for precision."""
        origin, total, squares = None, x.new_zeros(()), x.new_zeros(())

        def part(noisy: Tensor, targets: Target) -> Tensor:
            _, gradients = gradient_at(self.model, self.layer, noisy, targets)
            check_rows(gradients, self.layer, len(noisy))
            return gradients.unflatten(0, (-1, len(x)))  # (k, N, …)

        for stack in self.over_noise(x, target, part):
            origin = stack[0] if origin is None else origin
            deviation = stack - origin
            total = total + deviation.sum(dim=0)
            squares = squares + deviation.square().sum(dim=0)
        return (squares / self.n_samples - (total / self.n_samples) ** 2).clamp(min=0)
