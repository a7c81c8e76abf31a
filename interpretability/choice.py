"""Which layers of a network to look into when nobody says."""

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interpretability.devices import on_models_device
from interpretability.layers import evaluating, find_layer, layer_names
from interpretability.maps import Maps, reading_of
from interpretability.pixel_model import PixelModel

LARGEST_SIDE = 64  # finer maps have more places than one can point at
LISTS = (nn.Sequential, nn.ModuleList)


@dataclass
class Candidate:
    """A layer that puts out maps: of the names that share an output, the one to show."""

    name: str
    side: tuple[int, int]
    output: tuple[int, int]  # the tensor's place in memory and its version
    pooled: bool
    block: bool

    @property
    def rank(self) -> tuple[bool, bool]:
        """What speaks for showing it: it is no pooled copy of an earlier one, it is a block and no part of one."""
        return not self.pooled, self.block


@on_models_device
def choose_layers(model: nn.Module, x: Tensor, count: int = 4, maps: Maps = None) -> list[str]:
    """Up to ``count`` layers with places, early to late, for images ``x`` (1, C, H, W).

    The last block of each resolution, coarsest preferred; then blocks between them. Left out are class maps, as wide as
    the logits, and layers on whose places the score does not depend, such as the last of a transformer that reads its
    class token only.

    Raises:
        ValueError: no layer of the model puts out maps of more than one place.
    """
    candidates = _candidates(model, x, maps)
    if not candidates:
        raise ValueError(f"no layer of {type(model).__name__} can be read as maps with more than one place")
    best: dict[tuple[int, int], int] = {}
    for index, candidate in enumerate(candidates):
        if candidate.side not in best or candidate.rank >= candidates[best[candidate.side]].rank:
            best[candidate.side] = index
    chosen = sorted(best.values())[-count:]
    blocks = [index for index, candidate in enumerate(candidates) if candidate.rank == (True, True)]
    while len(chosen) < count:
        gaps = {index: min(abs(index - other) for other in [-1, *chosen]) for index in blocks if index < chosen[-1]}
        widest = max(gaps, key=lambda index: gaps[index], default=None)
        if widest is None or gaps[widest] < 2:
            break
        chosen = sorted([*chosen, widest])
    return [candidates[index].name for index in chosen]


def _candidates(model: nn.Module, x: Tensor, maps: Maps) -> list[Candidate]:
    """The layers with places in the order in which they finish, one for each output."""
    outputs, classes = _outputs(model, x)
    blocks = block_names(model)
    found: list[Candidate] = []
    widths: dict[str, int] = {}
    for one in outputs:
        if one.runs > 1:
            continue
        try:
            read = reading_of(model, one.name, x, one.value, maps)
        except ValueError:  # it has no reading, or two
            continue
        width, *side = read(one.value).shape[1:]
        if min(side) < 2 or max(side) > LARGEST_SIDE or one.gradient is None or not read(one.gradient).any():
            continue
        widths[one.name] = width
        candidate = Candidate(one.name, (side[0], side[1]), one.place, "Pool" in one.kind, one.name in blocks)
        if found and found[-1].output == candidate.output:
            candidate.pooled = found[-1].pooled = candidate.pooled or found[-1].pooled
            if candidate.block and not found[-1].block:
                found[-1] = candidate
        else:
            found.append(candidate)
    features = [candidate for candidate in found if widths[candidate.name] != classes]
    return features or found


@dataclass
class Output:
    """What a layer put out in a forward pass, and the gradient of the likeliest class's logit there."""

    name: str
    kind: str
    value: Tensor
    place: tuple[int, int]
    runs: int
    gradient: Tensor | None = None


def _outputs(model: nn.Module, x: Tensor) -> tuple[list[Output], int]:
    """The outputs of all layers that run, in the order in which they finish, and the number of classes."""
    found: dict[str, Output] = {}

    def record(name: str, module: nn.Module, value: object) -> None:
        if isinstance(value, Tensor) and value.is_floating_point() and len(value) == len(x):
            runs = found.pop(name).runs + 1 if name in found else 1
            found[name] = Output(name, type(module).__name__, value, (value.data_ptr(), value._version), runs)

    with ExitStack() as hooks, evaluating(model):
        for name in layer_names(model):
            hook = lambda module, args, output, name=name: record(name, module, output)  # noqa: E731
            hooks.callback(find_layer(model, name).register_forward_hook(hook).remove)
        logits = model(x.clone().requires_grad_())
        followed = [one for one in found.values() if one.value.requires_grad]
        gradients = torch.autograd.grad(logits.amax(1).sum(), [one.value for one in followed], allow_unused=True)
    for one, gradient in zip(followed, gradients):
        one.gradient = gradient
    return list(found.values()), logits.shape[1]


def block_names(model: nn.Module) -> set[str]:
    """The names of the blocks that a model is made of: ``features.12``, ``layer4.1``, ``encoder.layer.11``.

    Found from the outside in: where one part holds most of the parameters and is no list of modules, inside it. There,
    the members of lists are blocks, and so are other parts that have parts of their own.
    """
    root, prefix = (model.model if isinstance(model, PixelModel) else model), ""
    while True:
        inside = [
            (name, child)
            for name, child in root.named_children()
            if not isinstance(child, LISTS) and len(list(child.children())) and 2 * _size(child) > _size(root)
        ]
        if not inside or isinstance(root, LISTS):
            break
        root, prefix = inside[0][1], f"{prefix}{inside[0][0]}."
    if isinstance(root, LISTS):
        return {f"{prefix}{name}" for name, _ in root.named_children()}
    found = set()
    for name, child in root.named_children():
        if isinstance(child, LISTS):
            found |= {f"{prefix}{name}.{member}" for member, _ in child.named_children()}
        elif len(list(child.children())) or isinstance(child, nn.Conv2d):
            found.add(f"{prefix}{name}")
    return found


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
