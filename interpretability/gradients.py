"""The gradient of a score: the one place under attribution, attacks and visualisation that computes it.

A point is what a gradient is taken with respect to: the input ``x``, or the output of a layer. Scores of
different samples do not mix (the model is in eval mode), so the gradient of their sum holds each sample's
own gradient in its row.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from interpretability.devices import on_models_device
from interpretability.first_convolution import gradient_through, sum_of_stacked
from interpretability.layers import check_rows, evaluating, replace
from interpretability.pixel_model import offers_input_gradient
from interpretability.targets import Target, check_logits, check_target, target_scores

UNRELATED = "the score does not depend on what is explained through differentiable operations"


@on_models_device
def input_gradient(model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
    """∂score/∂x, of the shape of ``x`` (N, …)   eq. 3.1.

    A model that offers ``input_gradient(x, target)`` is asked for it; autograd serves the others, and those whose
    attribute ``explicit_gradients`` is False. The model comes back as it was.
    """
    with evaluating(model):
        return point_gradient(model, None, x, x, target)


@on_models_device
def layer_gradient(model: nn.Module, layer: str, x: Tensor, target: Target = None) -> tuple[Tensor, Tensor]:
    """The output a of ``layer`` at ``x`` and ∂score/∂a, both of the shape of a   eq. 3.2."""
    with evaluating(model):
        return gradient_at(model, layer, x, target)


def gradient_at(model: nn.Module, layer: str | None, x: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """The point at ``x`` and ∂score/∂point; for use inside :func:`evaluating`."""
    if layer is None:
        return x, point_gradient(model, None, x, x, target)
    point, scores = trace(model, layer, x, target)
    return point.detach(), score_gradient(scores, point)


def point_gradient(model: nn.Module, layer: str | None, point: Tensor, x: Tensor, target: Target) -> Tensor:
    """∂score/∂point with the output of ``layer`` set to ``point`` while the model sees ``x``; detached.

    For use inside :func:`evaluating`. Where ``layer`` is None the point is the input.
    """
    if _is_explicit(model, layer):
        target = check_target(target, len(point))
        target = target.to(point.device) if isinstance(target, Tensor) else target
        asked = partial(target_scores, target=target) if callable(target) else target
        return model.input_gradient(point, asked).detach()  # type: ignore[operator]
    leaf, scores = trace(model, layer, x, target, point)
    return score_gradient(scores, leaf)


def trace(
    model: nn.Module, layer: str | None, x: Tensor, target: Target, point: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The point as an autograd leaf, and the scores (N,) with the graph that leads from it to them.

    ``point`` is the value to put in place of the input or of the layer's output (default: the one at ``x``).
    The model goes on with a copy of the leaf, so that its in-place operations leave the leaf alone.
    """
    if layer is None:
        leaf = (x if point is None else point).detach()
        leaf = (leaf.clone() if leaf.is_inference() else leaf).requires_grad_()
        logits = model(leaf.clone())
        check_logits(logits, len(leaf))
        return leaf, target_scores(logits, target)

    def cut(output: Tensor) -> Tensor:
        nonlocal leaf
        leaf = (output if point is None else point).detach().clone().requires_grad_()
        return leaf.clone()

    with replace(model, layer, cut):
        logits = model(x.clone())
    check_logits(logits, len(x) if point is None else None)
    return leaf, target_scores(logits, target)


def summed_gradient(
    model: nn.Module, layer: str | None, x: Tensor, target: Target, weights: Tensor, point: Tensor | None = None
) -> Tensor:
    """Σₖ wₖ ∂score/∂point of each sample, over k evaluations stacked up as (x₁ … x_N, x₁ … x_N, …): (N, …).

    For use inside :func:`evaluating`; ``point`` as for :func:`trace`, ``weights`` (k,).
    """
    k = len(weights)
    if _is_explicit(model, layer):
        gradients = point_gradient(model, None, x if point is None else point, x, target)
        return torch.tensordot(weights, gradients.unflatten(0, (k, -1)), dims=1)
    leaf, scores = trace(model, layer, x, target, point)
    check_rows(leaf, layer, len(scores))
    return score_gradient(weights.repeat_interleave(len(scores) // k) * scores, leaf, stacked=k)


def score_gradient(scores: Tensor, point: Tensor | GradientEdge, keep_graph: bool = False, stacked: int = 1) -> Tensor:
    """∂(Σ scores)/∂point; a ValueError where no differentiable path joins them.

    Of a point that is ``stacked`` k times over, (kN, …), the sum over the k, (N, …).
    """
    gradient = None
    if scores.requires_grad and isinstance(point, Tensor):
        gradient = gradient_through(scores, point, keep_graph, stacked)
        if gradient is not None:
            return gradient
    if scores.requires_grad:
        ones = torch.ones_like(scores)
        (gradient,) = torch.autograd.grad(scores, point, ones, retain_graph=keep_graph, allow_unused=True)
    if gradient is None:
        raise ValueError(UNRELATED)
    return sum_of_stacked(gradient, stacked)


def copied_from(copy: Tensor) -> GradientEdge:
    """The place in the graph that ``copy`` is a clone of, as it was then: what was captured, as a point."""
    node, index = copy.grad_fn.next_functions[0] if copy.grad_fn is not None else (None, 0)
    if node is None:
        raise ValueError(UNRELATED)
    return GradientEdge(node, index)


def _is_explicit(model: nn.Module, layer: str | None) -> bool:
    return layer is None and offers_input_gradient(model)
