"""What an image is to maximise: objectives that add and scale.

    channel("features.5", 12) + 0.5 * logit(207) - diversity("features.5")

An objective names the layers it reads and maps their outputs to one score per image (N,). ``None`` stands
for the model's own output, the logits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from interpretability.targets import Target, log_odds, target_scores

Outputs = Mapping[str | None, Tensor]


@dataclass(frozen=True)
class Objective:
    """A score per image, read from the outputs of named layers; ``label`` is how messages and figures call it."""

    label: str
    layers: frozenset[str | None]
    score: Callable[[Outputs], Tensor]

    def __add__(self, other: "Objective") -> "Objective":
        label = f"{self.label} + {other.label}"
        return Objective(label, self.layers | other.layers, lambda outputs: self.score(outputs) + other.score(outputs))

    def __mul__(self, factor: float) -> "Objective":
        return Objective(f"{factor:g} · {self.label}", self.layers, lambda outputs: factor * self.score(outputs))

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


def channel(layer: str, index: int) -> Objective:
    """The mean of one channel of ``layer`` over its positions (eq. 7.8)."""
    return _of_layer(f"{layer}:{index}", layer, lambda output: _channel(output, layer, index).mean((1, 2)))


def neuron(layer: str, index: int, y: int | None = None, x: int | None = None) -> Objective:
    """One channel of ``layer`` at one position, the central one by default."""

    def score(output: Tensor) -> Tensor:
        activation = _channel(output, layer, index)
        _, height, width = activation.shape
        row, column = height // 2 if y is None else y, width // 2 if x is None else x
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"layer {layer!r} has {height} × {width} positions: ({row}, {column}) is not among them")
        return activation[:, row, column]

    return _of_layer(f"{layer}:{index} at ({y}, {x})" if y is not None else f"{layer}:{index} at centre", layer, score)


def direction(layer: str, vector: Tensor) -> Objective:
    """The activations' component along ``vector`` (C,) in channel space, mean over positions (eq. 7.9)."""

    def score(output: Tensor) -> Tensor:
        activation = _positions(output, layer)
        if vector.shape != activation.shape[1:2]:
            raise ValueError(f"layer {layer!r} has {activation.shape[1]} channels, the direction {tuple(vector.shape)}")
        unit = vector.to(activation) / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)
        return torch.einsum("nchw,c->n", activation, unit) / activation[0, 0].numel()

    return _of_layer(f"{layer}: direction", layer, score)


def diversity(layer: str) -> Objective:
    """How unlike one another the images of an objective are, by their textures (Olah et al. 2017; eq. 7.10).

    Minus the mean cosine between the Gram matrices of an image's activations and each other image's:
    between -1 and 0. A single image has nothing to differ from and scores 0.
    """

    def score(output: Tensor) -> Tensor:
        features = _positions(output, layer).flatten(2)  # (N, C, P)
        gram = (features @ features.transpose(1, 2)).flatten(1)  # (N, C·C)
        gram = torch.nn.functional.normalize(gram, dim=1)
        others = max(len(gram) - 1, 1)
        return ((gram * gram).sum(1) - gram @ gram.sum(0)) / others

    return _of_layer(f"diversity of {layer}", layer, score)


def _of_layer(label: str, layer: str | None, score: Callable[[Tensor], Tensor]) -> Objective:
    return Objective(label, frozenset([layer]), lambda outputs: score(outputs[layer]))


def _positions(output: Tensor, layer: str) -> Tensor:
    """A layer's output as (N, C, H, W): a vector per image has the one position."""
    if output.ndim == 2:
        return output[:, :, None, None]
    if output.ndim != 4:
        raise ValueError(f"layer {layer!r} puts out {tuple(output.shape)}: neither (N, C) nor (N, C, H, W)")
    return output


def _channel(output: Tensor, layer: str, index: int) -> Tensor:
    output = _positions(output, layer)
    if not 0 <= index < output.shape[1]:
        raise ValueError(f"layer {layer!r} has {output.shape[1]} channels: {index} is not one of them")
    return output[:, index]
