"""What an image is to maximise: objectives that add and scale.

    channel("features.5", 12) + 0.5 * logit(207) - diversity("features.5")

An objective names the layers it reads and makes one score per image (N,) of their outputs, which it is given as maps
(N, C, h, w) by :mod:`interpretability.maps`. ``None`` stands for the model's own output, the logits (N, K).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from interpretability.maps import Maps
from interpretability.targets import Target, log_odds, target_scores

Outputs = Mapping[str | None, Tensor]


@dataclass(frozen=True)
class Objective:
    """A score per image, read from the maps of named layers; ``label`` is how messages and figures call it.

    ``maps`` says how to read a layer's output as maps where the model does not tell.
    """

    label: str
    layers: frozenset[str | None]
    score: Callable[[Outputs], Tensor]
    maps: Mapping[str, Maps] = field(default_factory=dict, compare=False)

    def __add__(self, other: "Objective") -> "Objective":
        label = f"{self.label} + {other.label}"
        return Objective(
            label,
            self.layers | other.layers,
            lambda outputs: self.score(outputs) + other.score(outputs),
            {**self.maps, **other.maps},
        )

    def __mul__(self, factor: float) -> "Objective":
        label = f"{factor:g} · {self.label}"
        return Objective(label, self.layers, lambda outputs: factor * self.score(outputs), self.maps)

    __rmul__ = __mul__

    def __neg__(self) -> "Objective":
        return -1.0 * self

    def __sub__(self, other: "Objective") -> "Objective":
        return self + -other


def logit(target: Target) -> Objective:
    """The logit of a class, or any target on logits (a callable logits (N, K) -> (N,))."""
    label = f"class {target}" if isinstance(target, int) else "target"
    return _of_layer(label, None, lambda logits: target_scores(logits, target))


def odds(index: int) -> Objective:
    """The log-odds of a class against all others (eq. 8.1): what sets it apart, where `logit` asks for more of it."""
    return _of_layer(f"odds of class {index}", None, lambda logits: log_odds(logits, index))


def channel(layer: str, index: int, maps: Maps = None) -> Objective:
    """The mean of one channel of ``layer`` over its positions (eq. 7.8)."""
    return _of_layer(f"{layer}:{index}", layer, lambda output: _channel(output, layer, index).mean((1, 2)), maps)


def neuron(layer: str, index: int, y: int | None = None, x: int | None = None, maps: Maps = None) -> Objective:
    """One channel of ``layer`` at one position, the central one by default."""

    def score(output: Tensor) -> Tensor:
        activation = _channel(output, layer, index)
        _, height, width = activation.shape
        row, column = height // 2 if y is None else y, width // 2 if x is None else x
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"layer {layer!r} has {height} × {width} positions: ({row}, {column}) is not among them")
        return activation[:, row, column]

    place = f"({y}, {x})" if y is not None else "centre"
    return _of_layer(f"{layer}:{index} at {place}", layer, score, maps)


def direction(layer: str, vector: Tensor, maps: Maps = None) -> Objective:
    """The activations' component along ``vector`` (C,) in channel space, mean over positions (eq. 7.9)."""

    def score(activation: Tensor) -> Tensor:
        if vector.shape != activation.shape[1:2]:
            raise ValueError(f"layer {layer!r} has {activation.shape[1]} channels, the direction {tuple(vector.shape)}")
        unit = vector.to(activation) / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)
        return torch.einsum("nchw,c->n", activation, unit) / activation[0, 0].numel()

    return _of_layer(f"{layer}: direction", layer, score, maps)


def diversity(layer: str, maps: Maps = None) -> Objective:
    """How unlike one another the images of an objective are, by their textures (Olah et al. 2017; eq. 7.10).

    Minus the mean cosine between the Gram matrices of an image's activations and each other image's:
    between -1 and 0. A single image has nothing to differ from and scores 0.
    """

    def score(output: Tensor) -> Tensor:
        features = output.flatten(2)  # (N, C, P)
        gram = (features @ features.transpose(1, 2)).flatten(1)  # (N, C·C)
        gram = torch.nn.functional.normalize(gram, dim=1)
        others = max(len(gram) - 1, 1)
        return ((gram * gram).sum(1) - gram @ gram.sum(0)) / others

    return _of_layer(f"diversity of {layer}", layer, score, maps)


def _of_layer(label: str, layer: str | None, score: Callable[[Tensor], Tensor], maps: Maps = None) -> Objective:
    given = {} if layer is None or maps is None else {layer: maps}
    return Objective(label, frozenset([layer]), lambda outputs: score(outputs[layer]), given)


def _channel(output: Tensor, layer: str, index: int) -> Tensor:
    if not 0 <= index < output.shape[1]:
        raise ValueError(f"layer {layer!r} has {output.shape[1]} channels: {index} is not one of them")
    return output[:, index]
