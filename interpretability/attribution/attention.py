"""What attention itself says: how it mixes the image's patches into the tokens that the score reads."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interpretability.attribution.base import Attribution
from interpretability.attribution.operations import softmax_axis
from interpretability.attribution.taken_apart import APART
from interpretability.attribution.torch_functions import operation_name
from interpretability.gradients import UNRELATED
from interpretability.layers import evaluating
from interpretability.map_evidence import surroundings
from interpretability.maps import Maps, Reading
from interpretability.targets import Target, check_logits, target_scores

WHOLE = ("scaled_dot_product_attention", "multi_head_attention_forward")  # one call, in which no weights are seen


class AttentionMethod(Attribution):
    """Relevance of the patches by way of attention: maps (N, 1, h, w), nowhere negative.

    Args:
        model: a transformer on images (N, C, H, W) in which every token attends to every other.
        layer: None; the map belongs to the image.
        maps: a function (N, T, 1) -> (N, 1, h, w) that puts tokens in their places; None to find those out.

    Raises:
        ValueError: no attention is seen, or only within windows, or the tokens' places are not known.
    """

    additive = False
    input_only = True

    def __init__(self, model: nn.Module, layer: str | None = None, maps: Maps = None):
        super().__init__(model, layer)
        if maps not in (None, "tokens") and not callable(maps):
            raise ValueError(f"{type(self).__name__} reads tokens: maps= must be 'tokens' or a function; got {maps!r}")
        self.maps = maps

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward and one backward pass."""
        leaf = x.detach().clone().requires_grad_()
        with _Seen() as seen:
            logits = self.model(leaf.clone())
        check_logits(logits, len(x))
        weights = [self._per_sample(one, len(x)) for one in seen.weights]
        if not weights:
            raise ValueError(f"{type(self).__name__} needs attention between tokens; this model has none that is seen")
        if len({side for one in weights for side in one.shape[-2:]}) > 1:
            shapes = ", ".join(f"{one.shape[-2]} to {one.shape[-1]}" for one in weights)
            raise ValueError(
                f"{type(self).__name__} needs the same tokens in every layer, each attending to all;"
                f" here attend {shapes}"
            )
        scores = target_scores(logits, target)
        gradients = (
            torch.autograd.grad(scores.sum(), seen.weights, allow_unused=True) if scores.requires_grad else [None]
        )
        if gradients[-1] is None:
            raise ValueError(UNRELATED)
        with torch.no_grad():
            slopes = [
                torch.zeros_like(w) if g is None else self._per_sample(g, len(x)) for w, g in zip(weights, gradients)
            ]
            tokens = torch.eye(weights[0].shape[-1], dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
            for attention, slope in zip(weights, slopes):
                tokens = self.mixed(tokens, attention.detach().to(x), slope.to(x))
            read = slopes[-1].abs().sum(dim=(1, 3)) > 0  # (N, T): the score depends on these
            return self._in_places(x, (tokens * read[:, :, None]).sum(dim=1) / read.sum(dim=1, keepdim=True))

    @abstractmethod
    def mixed(self, tokens: Tensor, attention: Tensor, slope: Tensor) -> Tensor:
        """The next layer's R (N, T, T), from ``attention`` and ∂score/∂attention (N, heads, T, T)."""

    def _per_sample(self, weights: Tensor, samples: int) -> Tensor:
        """As (N, heads, T, T)."""
        if len(weights) % samples or (weights.ndim == 4 and len(weights) != samples) or weights.ndim > 4:
            raise ValueError(
                f"{type(self).__name__} needs attention between all tokens; here it is within windows, of shape"
                f" {tuple(weights.shape)}"
            )
        return weights.reshape(samples, -1, *weights.shape[-2:])

    def _in_places(self, x: Tensor, of_tokens: Tensor) -> Tensor:
        """(N, T) as maps."""
        if callable(self.maps):
            return self.maps(of_tokens[:, :, None])
        around, count = surroundings(self.model, x), of_tokens.shape[1]
        grids = [grid for grid in around.grids if 0 <= count - grid[0] * grid[1] <= around.special]
        if len(grids) != 1:
            known = ", ".join(f"{h} x {w}" for h, w in around.grids)
            raise ValueError(
                f"the places of {count} tokens are not known: grids of the model are {known}; give maps= a function"
            )
        return Reading("tokens", grids[0])(of_tokens[:, :, None])


class AttentionRollout(AttentionMethod):
    """How much of each patch arrives in the tokens that the score reads, over all paths   eq. 5.24.

    Abnar and Zuidema 2020, "Quantifying attention flow in transformers", section 3. Heads are averaged, half of every
    token goes round attention. The class plays no part but for which tokens are read.
    """

    def mixed(self, tokens: Tensor, attention: Tensor, slope: Tensor) -> Tensor:
        """½ (I + A) R."""
        return (tokens + attention.mean(dim=1) @ tokens) / 2


class AttentionGradient(AttentionMethod):
    """Rollout of the attention that raises the score, weighted by its gradient   eq. 5.25.

    Chefer, Gur, Wolf 2021, "Generic attention-model explainability", equations 5 and 6.
    """

    def mixed(self, tokens: Tensor, attention: Tensor, slope: Tensor) -> Tensor:
        """R + (∇A ⊙ A)⁺ R."""
        return tokens + (slope * attention).clamp(min=0).mean(dim=1) @ tokens


def attends(model: nn.Module, x: Tensor) -> bool:
    """Whether attention between tokens is seen in the model's forward pass at ``x`` (N, …)."""
    with evaluating(model), _Seen() as seen:
        model(x.detach().clone().requires_grad_())
    return bool(seen.weights)


class _Seen(TorchFunctionMode):
    """The attention weights (…, queries, keys) of a forward pass, in order, whichever way a model spells attention."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = kwargs or {}, operation_name(func)
        if name in WHOLE:
            with self:
                return APART[name](*args, **kwargs)
        result = func(*args, **kwargs)
        inner = name == "softmax" and result.ndim > 2 and result.requires_grad  # not that of a head
        if inner and softmax_axis(func, args, kwargs) in (-1, result.ndim - 1):
            self.weights.append(result)
        return result
