"""Guided backpropagation and the deconvolution network: ReLUs with another rule for the way back.

The rule is put on the ReLUs of the recorded graph, not on modules: every ReLU that the forward pass went
through is there once per use, whether it was a module, a function, in place or reused, and the rules are gone
with the graph. An operation whose inside the graph does not show is refused.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from interpretability.attribution.base import Attribution
from interpretability.gradients import score_gradient, trace
from interpretability.targets import Target

Rule = Callable[[Any], object]  # installs itself on one ReLU node of the graph
LOWER_BOUND = {  # what the graph calls operations that cut off at a lower bound, and where it keeps the bound
    "ClampMinBackward0": "_saved_min",
    "ClampBackward1": "_saved_min",
    "HardtanhBackward0": "_saved_min_val",
    "ThresholdBackward0": "_saved_threshold",
    "LeakyReluBackward0": "_saved_negative_slope",
}
EXTREMES = ("MaximumBackward0", "MinimumBackward0", "FmaxBackward0", "FminBackward0")


class _RectifiedGradient(Attribution):
    """The gradient with ``rule`` at every ReLU between the point and the score."""

    additive = False
    rule: Rule

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward and one backward pass."""
        leaf, scores = trace(self.model, self.layer, x, target)
        if not install(type(self).rule, scores) and self.layer is None:
            raise ValueError(f"{type(self).__name__} needs a network with ReLUs; this one has none")
        return score_gradient(scores, leaf)


def guided_rule(node: Any) -> None:
    """ReLU's backward on what comes from above cut off at zero: dz = 1[z > 0] · max(da, 0)   eq. 3.9."""
    node.register_prehook(lambda da: tuple(d.clamp(min=0) for d in da))


def deconvolution_rule(node: Any) -> None:
    """Whether ReLU was open on the way up does not matter: dz = max(da, 0)   eq. 3.10."""
    node.register_hook(lambda dz, da: (da[0].clamp(min=0),))


class GuidedBackprop(_RectifiedGradient):
    """The gradient that only lets positive influence pass, backwards, at open ReLUs   eq. 3.9.

    Springenberg et al. 2015, "Striving for simplicity", section 3.4. ReLU6 counts as a ReLU; activations
    that are none pass the gradient as it is. One put together of arithmetic, as ``(z + z.abs()) / 2``, is not
    recognised.

    Raises:
        ValueError: no ReLU between input and score, or an operation that may hide one.
    """

    rule = staticmethod(guided_rule)


class Deconvolution(_RectifiedGradient):
    """The gradient with ReLUs that rectify what comes back instead of what went up   eq. 3.10.

    Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 2.1. Raises as
    :class:`GuidedBackprop` does.
    """

    rule = staticmethod(deconvolution_rule)


def install(rule: Rule, scores: Tensor) -> int:
    """Put ``rule`` on every ReLU in the graph of ``scores``; how many there were.

    Raises:
        ValueError: an operation that may hide a ReLU (a custom autograd function, a checkpoint, a compiled
            block, a maximum with zero, a mask over single activations).
    """
    relus = [node for node in graph_nodes(scores) if is_relu(node)]
    for node in relus:
        rule(node)
    return len(relus)


def graph_nodes(output: Tensor) -> Iterator[Any]:
    """Every operation in the autograd graph that leads to ``output``."""
    found, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        yield node
        waiting.extend(before for before, _ in node.next_functions)


def is_relu(node: Any) -> bool:
    """Whether ``node`` is a ReLU, however it was written; a ValueError where that cannot be seen."""
    name = node.name()
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        raise ValueError(f"the model computes with {name}, which may hide ReLUs; write them as torch.relu or nn.ReLU")
    if name in EXTREMES and any(_is_zero(side) for side in (node._saved_self, node._saved_other)):
        raise ValueError("the model takes a maximum with zero; write it as torch.relu or nn.ReLU")
    if _masks_activations(node):
        raise ValueError(f"the model masks its activations ({name}), which may be a ReLU; write that as torch.relu")
    if name in ("ClampBackward0", "ClampMinBackward1"):  # the bounds are tensors
        return _is_zero(node._saved_min)
    if name in LOWER_BOUND:
        return getattr(node, LOWER_BOUND[name]) == 0
    return name == "ReluBackward0"


def _masks_activations(node: Any) -> bool:
    """Whether ``node`` lets each single activation pass or not: ``z * (z > 0)``, ``torch.where(z > 0, z, 0)``."""
    mask, constant = None, [below is None for below, _ in node.next_functions]
    if node.name() == "WhereBackward0" and any(constant):
        mask = node._saved_condition
    elif node.name() == "MaskedFillBackward0":
        mask = node._saved_mask
    elif node.name() == "MulBackward0" and any(constant):
        mask = node._saved_self if constant[0] else node._saved_other
    if mask is None or [*mask.shape] != [*node._input_metadata[0].shape]:
        return False
    return mask.dtype == torch.bool or bool(((mask == 0) | (mask == 1)).all() and not mask.all())


def _is_zero(operand: Tensor | None) -> bool:
    return operand is not None and not operand.any()
