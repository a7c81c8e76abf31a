"""The building blocks of interpretability (Olah et al. 2018): what fires where, and what it does to the decision.

A layer's output is read as maps a (N, C, h, w): C detectors at h × w places, by :mod:`interpretability.maps`; every
function takes its ``maps=`` for layers that the model does not tell how to read.
Effects are gradient × activation, in units of the score: exact where the layer is read out linearly, a
first-order estimate elsewhere. For class against class, the target is a difference: :func:`against`.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from interpretability.devices import on_models_device
from interpretability.gradients import copied_from, score_gradient
from interpretability.layers import capture, evaluating, forward_to
from interpretability.maps import Maps, as_maps, reading_of
from interpretability.targets import Target, target_scores


@on_models_device
def activation_maps(model: nn.Module, layer: str, x: Tensor, maps: Maps = None) -> Tensor:
    """What ``layer`` makes of ``x``: (N, C, h, w)."""
    with evaluating(model), torch.no_grad():
        return as_maps(model, layer, x, forward_to(model, layer, x), maps)


def against(first: int, second: int) -> Callable[[Tensor], Tensor]:
    """The target "class ``first`` rather than ``second``": the difference of their logits."""
    return lambda logits: target_scores(logits, first) - target_scores(logits, second)


@on_models_device
def activations_and_gradients(
    model: nn.Module, layers: Iterable[str], x: Tensor, target: Target = None, maps: Maps = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """For each layer its maps a and ∂score/∂a, both (N, C, h, w), from one pass forwards and one back."""
    with evaluating(model):
        with capture(model, layers) as outputs:
            scores = target_scores(model(x.detach().clone().requires_grad_()), target)
        found = {}
        for name, output in outputs.items():
            read = reading_of(model, name, x, output.detach(), maps)
            found[name] = read(output.detach()), read(score_gradient(scores, copied_from(output), True))
        return found


def attribution(model: nn.Module, layer: str, x: Tensor, target: Target = None, maps: Maps = None) -> Tensor:
    """The effect of every channel at every place: gradient × activation (N, C, h, w)   eq. 9.1."""
    activation, gradient = activations_and_gradients(model, [layer], x, target, maps)[layer]
    return gradient * activation


def spatial_attribution(model: nn.Module, layer: str, x: Tensor, target: Target = None, maps: Maps = None) -> Tensor:
    """The effect of every place: (N, h, w)   eq. 9.2."""
    return attribution(model, layer, x, target, maps).sum(1)


def channel_attribution(model: nn.Module, layer: str, x: Tensor, target: Target = None, maps: Maps = None) -> Tensor:
    """The effect of every channel: (N, C)   eq. 9.3. Tokens without a place, such as the class token, are left out."""
    return attribution(model, layer, x, target, maps).sum((2, 3))


@on_models_device
def layer_to_layer_attribution(
    model: nn.Module, earlier: str, later: str, x: Tensor, weights: Tensor, maps: Maps = None
) -> Tensor:
    """How much each unit of ``earlier`` gives to weighted sums of the units of ``later``   eq. 9.4.

    Args:
        model: any network in which ``earlier`` runs before ``later``.
        earlier: the layer that gives.
        later: the layer that receives.
        x: images (N, …).
        weights: M sums (M, N, C, h, w) over the maps of ``later``.
        maps: how to read both layers' outputs, where the model does not tell.

    Returns:
        (M, N, C', h', w') over the maps of ``earlier``.

    Raises:
        ValueError: ``later`` does not depend on ``earlier``, or weights of another shape than its maps.
    """
    with evaluating(model):
        with capture(model, [earlier, later]) as outputs:
            model(x.detach().clone().requires_grad_())
        read = reading_of(model, earlier, x, outputs[earlier].detach(), maps)
        activation = read(outputs[earlier].detach())
        received = reading_of(model, later, x, outputs[later].detach(), maps)(outputs[later])
        if weights.shape[1:] != received.shape:
            raise ValueError(f"weights for {later!r} must be (M, {', '.join(map(str, received.shape))}); "
                             f"got {tuple(weights.shape)}")  # fmt: skip
        place = copied_from(outputs[earlier])
        sums = (score_gradient((weight * received).sum((1, 2, 3)), place, True) for weight in weights)
        return torch.stack([read(gradient) * activation for gradient in sums])


@dataclass(frozen=True)
class SemanticDictionary:
    """The strongest channels at each place, strongest first: both fields (N, top, h, w)."""

    channels: Tensor
    activations: Tensor

    def leaders(self, count: int) -> list[int]:
        """The at most ``count`` channels that lead at most places: by Σ activation² where they are listed.

        The square gives places that fire strongly more say than a background that fires a little everywhere.
        """
        strength = self.activations.clamp(min=0).square().flatten()
        totals = strength.new_zeros(int(self.channels.max()) + 1).index_add(0, self.channels.flatten(), strength)
        order = totals.argsort(descending=True, stable=True)[:count].tolist()
        return [channel for channel in order if totals[channel] > 0]


def semantic_dictionary(model: nn.Module, layer: str, x: Tensor, top: int = 5, maps: Maps = None) -> SemanticDictionary:
    """Which channels of ``layer`` fire at each place of ``x``; at most ``top``, at most all there are."""
    return dictionary_of(activation_maps(model, layer, x, maps), top)


def dictionary_of(activation: Tensor, top: int) -> SemanticDictionary:
    """The dictionary of maps (N, C, h, w) at hand."""
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    values, channels = activation.topk(min(top, activation.shape[1]), dim=1)
    return SemanticDictionary(channels, values)


@dataclass(frozen=True)
class NeuronGroups:
    """Channels that fire together: maps ≈ Σ_g ``places``_g · ``channels``_g   eq. 9.5.

    ``places`` (N, G, h, w) is where and how strongly each group fires, ``channels`` (G, C) its channels, in
    unit norm; both non-negative, the largest group first. ``error`` is the part of the activations' norm
    that the groups leave unexplained, in [0, 1].
    """

    places: Tensor
    channels: Tensor
    error: float

    def shares(self) -> Tensor:
        """Which part of each unit belongs to each group (N, G, C, h, w); sums to 1 where any fires   eq. 9.6."""
        parts = torch.einsum("nghw,gc->ngchw", self.places, self.channels)
        return parts / parts.sum(1, keepdim=True).clamp(min=torch.finfo(parts.dtype).tiny)

    def effects(self, attribution: Tensor) -> Tensor:
        """The effect of each group (N, G), by an ``attribution`` to its units (N, C, h, w)   eq. 9.7."""
        return torch.einsum("ngchw,nchw->ng", self.shares(), attribution)


def neuron_groups(
    model: nn.Module, layer: str, x: Tensor, n_groups: int = 6, seed: int = 0, maps: Maps = None
) -> NeuronGroups:
    """The activations of ``layer`` in groups, by non-negative matrix factorisation   eq. 9.5.

    Images of a batch share their groups. Negative activations count as none. No more groups come back
    than the activations' rank.

    Raises:
        ValueError: fewer than one group, or activations without anything positive.
    """
    return groups_of(activation_maps(model, layer, x, maps), layer, n_groups, seed)


def groups_of(activation: Tensor, layer: str, n_groups: int, seed: int = 0) -> NeuronGroups:
    """The groups of maps (N, C, h, w) at hand; ``layer`` is named in errors."""
    if n_groups < 1:
        raise ValueError(f"n_groups must be at least 1, not {n_groups}")
    n, c, h, w = activation.shape
    rows = activation.detach().clamp(min=0).permute(0, 2, 3, 1).reshape(-1, c)  # (Nhw, C)
    if not rows.any():
        raise ValueError(f"layer {layer!r} is silent on this image: no activation is above zero")
    n_groups = min(n_groups, int(torch.linalg.matrix_rank(rows)))
    factorization = NMF(n_groups, init="nndsvda", random_state=seed, max_iter=400, tol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the error is told
        places = torch.from_numpy(factorization.fit_transform(rows.cpu().numpy())).to(rows)
    channels = torch.from_numpy(factorization.components_).to(rows)
    error = float((rows - places @ channels).norm() / rows.norm())
    norms = channels.norm(dim=1)
    channels, places = channels / norms.clamp(min=torch.finfo(rows.dtype).tiny)[:, None], places * norms
    order = places.norm(dim=0).argsort(descending=True)
    return NeuronGroups(places[:, order].view(n, h, w, -1).permute(0, 3, 1, 2), channels[order], error)
