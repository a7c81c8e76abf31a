"""Methods that average over a distribution of baselines: expected gradients, and DeepLift's."""

import torch
from torch import Tensor, nn

from interpretability.attribution.base import Attribution
from interpretability.attribution.batches import at_least, checked_batch_size, in_batches, stacked
from interpretability.attribution.deeplift import DeepLift
from interpretability.gradients import gradient_at, point_gradient
from interpretability.layers import forward_to
from interpretability.targets import Target, repeat_target, resolve_target


class GradientShap(Attribution):
    """E[(point − start) · ∂score/∂point (start + α(point − start))] over baselines and α in [0, 1)   eq. 11.10.

    Erion et al. 2021, "Improving performance of deep learning models with axiomatic attribution priors", equation 1
    (expected gradients); Lundberg and Lee's GradientExplainer. Each baseline is used equally often, and each n-th of
    the path once. Sums to score(x) − mean score(baselines) in expectation.
    At a layer the paths run between its outputs.

    Args:
        model: see :class:`Attribution`.
        layer: see :class:`Attribution`.
        baselines: (B, …), a sample, or a number.
        n_samples: points at which the gradient is taken.
        seed: of the draws, which are the same for every sample of a batch and touch no global random state.
        batch_size: rows in a forward pass; by default as many as run fastest.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        baselines: float | Tensor = 0.0,
        n_samples: int = 25,
        seed: int = 0,
        batch_size: int | None = None,
    ):
        super().__init__(model, layer)
        self.baselines, self.seed = baselines, seed
        self.n_samples = at_least("n_samples", n_samples, 1)
        self.batch_size = checked_batch_size(batch_size)

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """n_samples forward and backward passes in batches."""
        baselines = baseline_rows(self.baselines, x)
        with torch.no_grad():
            target = resolve_target(self.model(x.clone()), target)
            starts = forward_to(self.model, self.layer, baselines)
        end, _ = (x, None) if self.layer is None else gradient_at(self.model, self.layer, x, target)
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(starts), generator=generator)
        chosen = order[torch.arange(self.n_samples) % len(starts)].to(x.device)
        strata = torch.randperm(self.n_samples, generator=generator).double()
        alphas = ((strata + torch.rand(self.n_samples, generator=generator).double()) / self.n_samples).to(end)

        def along_paths(some: slice) -> Tensor:
            k = some.stop - some.start
            start = starts[chosen[some]][:, None]  # (k, 1, …)
            points = torch.lerp(start, end, alphas[some].view(k, *[1] * end.ndim)).flatten(0, 1)
            targets = repeat_target(target, k)
            gradients = point_gradient(self.model, self.layer, points, stacked(x, k), targets).unflatten(0, (k, -1))
            return ((end - start) * gradients).sum(dim=0)

        sums = in_batches(self.n_samples, x, self.batch_size, "GradientShap", along_paths)
        return torch.stack(list(sums)).sum(dim=0) / self.n_samples


class DeepLiftShap(Attribution):
    """The mean of DeepLift over baselines   eq. 11.11. Sums to score(x) − mean score(baselines).

    Lundberg and Lee 2017, "A unified approach to interpreting model predictions", section 4.2. Raises as
    :class:`DeepLift` does.

    Args:
        model: see :class:`Attribution`.
        layer: see :class:`Attribution`.
        baselines: (B, …), a sample, or a number.
    """

    def __init__(self, model: nn.Module, layer: str | None = None, baselines: float | Tensor = 0.0):
        super().__init__(model, layer)
        self.baselines = baselines

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """Two forward passes and a backward pass for each baseline."""
        baselines = baseline_rows(self.baselines, x)
        with torch.no_grad():
            target = resolve_target(self.model(x.clone()), target)

        def from_baselines(some: slice) -> Tensor:
            k = some.stop - some.start
            starts = baselines[some].repeat_interleave(len(x), dim=0)  # (kN, …), as the samples are stacked
            method = DeepLift(self.model, self.layer, baseline=starts)
            return method.attribute(stacked(x, k), repeat_target(target, k)).unflatten(0, (k, -1)).sum(dim=0)

        sums = in_batches(len(baselines), x, None, "DeepLiftShap", from_baselines)
        return torch.stack(list(sums)).sum(dim=0) / len(baselines)


def baseline_rows(baselines: float | Tensor, x: Tensor) -> Tensor:
    """``baselines`` as (B, …) of samples like those of ``x``; a ValueError where they do not fit or are not finite."""
    given = torch.as_tensor(baselines, dtype=x.dtype, device=x.device)
    rows = given if given.ndim == x.ndim else given[None]
    if not torch.isfinite(rows).all():
        raise ValueError("baselines hold NaN or infinite values")
    if not len(rows):
        raise ValueError("baselines hold no samples")
    try:
        return rows.expand(len(rows), *x.shape[1:])
    except RuntimeError:
        raise ValueError(f"baselines {tuple(given.shape)} do not fit samples {tuple(x.shape[1:])}") from None
