"""Integrated gradients: the gradient averaged along the straight path from a baseline."""

import warnings
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from interpretability.attribution.base import Attribution
from interpretability.attribution.batches import at_least, checked_batch_size, in_batches, stacked
from interpretability.gradients import summed_gradient
from interpretability.layers import capture, check_rows, separates
from interpretability.names import unknown
from interpretability.targets import Target, check_logits, repeat_target, resolve_target, target_scores

RULES = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid")
TOLERANCE = 0.05  # of the difference in score, before the completeness error is worth a warning


class IntegratedGradients(Attribution):
    """(point − start) · ∫₀¹ ∂score/∂point (start + α(point − start)) dα   eq. 3.5.

    Sundararajan, Taly, Yan 2017, "Axiomatic attribution for deep networks", equation 1. The attributions sum to
    score(x) − score(baseline); by how much they miss it is left in ``completeness_error`` (N,), and a large miss
    is a warning. At a layer the path runs between the layer's outputs at the baseline and at ``x``.

    Args:
        model: see :class:`Attribution`.
        layer: see :class:`Attribution`.
        n_steps: points on the path; memory does not grow with them.
        baseline: a number, or a tensor that broadcasts to ``x``.
        rule: how the integral is taken, one of ``RULES``.
        batch_size: rows in a forward pass; by default as many as run fastest.
    """

    completeness_error: Tensor | None = None

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        n_steps: int = 50,
        baseline: float | Tensor = 0.0,
        rule: str = "gausslegendre",
        batch_size: int | None = None,
    ):
        super().__init__(model, layer)
        self.alphas, self.weights = quadrature(rule, n_steps)
        self.baseline = baseline
        self.batch_size = checked_batch_size(batch_size)

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """n_steps forward and backward passes in batches, and one forward pass for the two ends."""
        (start, end), difference, target, alone = self._ends(x, target)

        def part(steps: slice) -> Tensor:
            alphas, weights = (values[steps].to(end) for values in (self.alphas, self.weights))
            k = len(alphas)
            points = torch.lerp(start, end, alphas.view(k, *[1] * end.ndim)).flatten(0, 1)  # (kN, …)
            seen = x[:1] if alone else stacked(x, k)
            return summed_gradient(self.model, self.layer, seen, repeat_target(target, k), weights, points)

        parts = in_batches(len(self.alphas), x, self.batch_size, "integrated gradients", part)
        attribution = (end - start) * reduce(torch.add, parts)
        self._check_completeness(attribution, difference)
        return attribution

    def _ends(self, x: Tensor, target: Target) -> tuple[tuple[Tensor, Tensor], Tensor, Target, bool]:
        """The path's ends, the difference in score, the target at ``x``, and whether the point alone decides it."""
        baseline = torch.as_tensor(self.baseline, dtype=x.dtype, device=x.device)
        both = torch.cat([expanded(baseline, x), x])
        layers = [] if self.layer is None else [self.layer]
        with torch.no_grad(), capture(self.model, layers) as outputs:
            logits = self.model(both.clone())
        check_logits(logits, len(both))
        target = resolve_target(logits[len(x) :], target)
        before, after = target_scores(logits, repeat_target(target, 2)).chunk(2)
        ends = both if self.layer is None else outputs[self.layer]
        check_rows(ends, self.layer, len(both))
        start, end = ends.chunk(2)
        alone = self.layer is None or separates(self.model, self.layer, x, end, logits[len(x) :])
        return (start, end), after - before, target, alone

    def _check_completeness(self, attribution: Tensor, difference: Tensor) -> None:
        terms = attribution.flatten(1)
        self.completeness_error = terms.sum(dim=1) - difference  # eq. 3.6
        allowed = TOLERANCE * difference.abs() + 1e-3 * terms.abs().sum(dim=1)
        if (self.completeness_error.abs() > allowed).any():
            worst = float(self.completeness_error.abs().max())
            warnings.warn(f"integrated gradients miss completeness by up to {worst:.3g}: raise n_steps", stacklevel=4)


def quadrature(rule: str, n_steps: int) -> tuple[Tensor, Tensor]:
    """Points in [0, 1] and weights that sum to 1 (float64)   eq. 3.7."""
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    n = at_least("n_steps", n_steps, 2 if rule == "riemann_trapezoid" else 1)
    if rule == "gausslegendre":
        nodes, masses = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(n))  # on [−1, 1]
        return (nodes + 1) / 2, masses / 2
    if rule == "riemann_trapezoid":
        weights = torch.full((n,), 1 / (n - 1), dtype=torch.float64)
        weights[[0, -1]] /= 2
        return torch.linspace(0, 1, n, dtype=torch.float64), weights
    offset = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[rule]
    return (torch.arange(n, dtype=torch.float64) + offset) / n, torch.full((n,), 1 / n, dtype=torch.float64)


def expanded(baseline: Tensor, x: Tensor) -> Tensor:
    """``baseline`` in the shape of ``x``; a ValueError where it does not broadcast to that, or is not finite."""
    if not torch.isfinite(baseline).all():
        raise ValueError("baseline holds NaN or infinite values")
    try:
        return baseline.expand_as(x)
    except RuntimeError:
        raise ValueError(f"baseline {tuple(baseline.shape)} does not fit {tuple(x.shape)}") from None
