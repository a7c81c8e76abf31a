"""DeepLift with the rescale rule: how the difference from a baseline gave the difference in score.

The model runs once at the baseline, where the inputs and outputs of its non-linear operations are kept, and
once at ``x``, where each such operation gets the slope between the two as its derivative. Linear operations
need none: their derivative is the slope.
"""

import torch
from torch import Tensor, nn

from interpretability.attribution.base import Attribution
from interpretability.attribution.difference_operations import DifferenceOperations, Incomparable
from interpretability.attribution.integrated import expanded
from interpretability.attribution.operations import own_copy, passing_through
from interpretability.gradients import score_gradient
from interpretability.targets import Target, target_scores


class DeepLift(Attribution):
    """(point − point at the baseline) · multiplier; sums to score(x) − score(baseline)   eq. 5.8, 5.9.

    Shrikumar, Greenside, Kundaje 2017, "Learning important features through propagating activation
    differences", section 3.5.1; max-pooling by eq. 5.10, products by eq. 5.11, softmax by eq. 5.21, normalisation by
    eq. 5.23. Other operations are taken apart into these. For a callable target the sum holds if it is linear in the
    logits.

    Args:
        model, layer: as for every attribution.
        baseline: a number, or a tensor that broadcasts to ``x``; one for the whole batch is run once, unless the
            model folds samples into another axis.

    Raises:
        ValueError: an operation of the model without a rule, or a baseline that does not fit.
    """

    def __init__(self, model: nn.Module, layer: str | None = None, *, baseline: float | Tensor = 0.0):
        super().__init__(model, layer)
        self.baseline = baseline

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward pass at the baseline, one forward and one backward pass at ``x``."""
        baseline = _baseline_batch(torch.as_tensor(self.baseline, dtype=x.dtype, device=x.device), x)
        x = own_copy(x).requires_grad_()
        try:
            return self._compared(x, baseline, target)
        except Incomparable:
            if len(baseline) == len(x):
                raise
        return self._compared(x, own_copy(baseline.expand_as(x)), target)

    def _compared(self, x: Tensor, baseline: Tensor, target: Target) -> Tensor:
        """The multipliers between these two, times what separates them."""
        reference = DifferenceOperations(baseline)
        with torch.no_grad(), passing_through(self.model, self.layer, baseline) as before, reference:
            self.model(baseline)
        operations = DifferenceOperations(x, reference.seen)
        with passing_through(self.model, self.layer, x) as after, operations:
            logits = self.model(x)
        logits = operations.finished(logits)
        multiplier = score_gradient(target_scores(logits, target), after[-1])
        return ((after[-1].detach() - before[-1]) * multiplier).contiguous()


def _baseline_batch(baseline: Tensor, x: Tensor) -> Tensor:
    """One row where all samples share it, else one row each."""
    rows = x if baseline.ndim == x.ndim and len(baseline) > 1 else x[:1]
    return own_copy(expanded(baseline, rows))
