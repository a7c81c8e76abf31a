"""What a model shows of where its values lie: grids of places, special tokens, axes that follow the input's."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interpretability.layers import capture, evaluating

Grid = tuple[int, int]
SPECIAL = ("token", "cls", "dist", "reg")  # in the name of a parameter that is put in front of the patches
NOT_SPECIAL = ("pos", "mask", "embed", "weight", "bias")


@dataclass(frozen=True)
class Surroundings:
    """The sizes of the maps that a model's convolutions make of an input, and its tokens without a place."""

    grids: tuple[Grid, ...]
    special: int


_known: WeakKeyDictionary[nn.Module, dict[torch.Size, Surroundings]] = WeakKeyDictionary()


def surroundings(model: nn.Module, x: Tensor) -> Surroundings:
    """What a forward pass of one sample of ``x`` shows; remembered for each model and size of input."""
    known = _known.setdefault(model, {})
    if x.shape[1:] not in known:
        known[x.shape[1:]] = Surroundings(tuple(_grids(model, x[:1])), _special_tokens(model))
    return known[x.shape[1:]]


def _grids(model: nn.Module, x: Tensor) -> list[Grid]:
    """The heights and widths of what its convolutions and poolings put out; without any, of square patches."""
    found: dict[Grid, None] = {}

    def record(module: nn.Module, args: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and len(output) == 1:
            found[(output.shape[2], output.shape[3])] = None

    kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    with ExitStack() as hooks, evaluating(model), torch.no_grad():
        for module in model.modules():
            if isinstance(module, kinds):
                hooks.callback(module.register_forward_hook(record).remove)
        model(x.clone())
    grids = [grid for grid in found if grid[0] * grid[1] > 1]
    if grids or x.ndim != 4:
        return grids
    height, width = x.shape[2:]
    return [(height // s, width // s) for s in range(2, min(height, width)) if height % s == 0 and width % s == 0]


def _special_tokens(model: nn.Module) -> int:
    """How many class, distillation and register tokens the model has, by its parameters."""
    total = 0
    for path, parameter in model.named_parameters():
        name = path.rpartition(".")[2].lower()
        small = parameter.ndim <= 3 and parameter.ndim and parameter.shape[-1] > 1
        if small and any(part in name for part in SPECIAL) and not any(part in name for part in NOT_SPECIAL):
            total += parameter.numel() // parameter.shape[-1]
    return total


def shape_when_stretched(model: nn.Module, layer: str, x: Tensor) -> tuple[int, ...] | None:
    """The shape of what ``layer`` puts out for inputs of twice the width; None if the model takes no such inputs.

    The batch's size is put back to that of ``x``.
    """
    try:
        with evaluating(model), torch.no_grad(), capture(model, [layer]) as outputs:
            model(torch.cat([x[:1], x[:1]], dim=-1))
    except Exception:  # whatever the model runs into with inputs of another size
        return None
    return (len(x), *outputs[layer].shape[1:])


def follows_the_image(model: nn.Module, layer: str, x: Tensor, read: Callable[[Tensor], Tensor]) -> bool:
    """Whether a change of a corner of the image changes the maps of ``layer`` most in or near that corner."""
    height, width = x.shape[2:]
    down, right = max(1, height // 8), max(1, width // 8)
    changed = x[:1].repeat(3, *[1] * (x.ndim - 1))
    changed[1, :, :down, width - right :] = 1 - changed[1, :, :down, width - right :]
    changed[2, :, height - down :, :right] = 1 - changed[2, :, height - down :, :right]
    with evaluating(model), torch.no_grad(), capture(model, [layer]) as outputs:
        model(changed)
    maps = read(outputs[layer])
    rows, columns = maps.shape[2:]
    places = (maps[1:] - maps[:1]).square().sum(dim=1).flatten(1).argmax(dim=1).tolist()
    (top, right_end), (bottom, left_end) = (divmod(place, columns) for place in places)
    return top < rows / 2 <= bottom and left_end < columns / 2 <= right_end


def proportional(grid: Grid, size: Grid) -> bool:
    """Whether a grid of places has the proportions of an image of this ``size``, as far as whole numbers allow."""
    (height, width), (rows, columns) = size, grid
    return rows <= height and columns <= width and abs(rows * width - columns * height) <= 2 * max(height, width)
