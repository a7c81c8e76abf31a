"""What a model shows of where its values lie: grids of places, special tokens, axes that follow the input's."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interpretability.layers import evaluating, find_layer, layer_names

Grid = tuple[int, int]
SPECIAL = ("token", "cls", "class", "dist", "reg")  # in the name of a parameter that is put in front of the patches
GRID_MAKERS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
NOT_SPECIAL = ("pos", "mask", "patch", "weight", "bias")


Changes = tuple[Tensor, Tensor]  # (2, …) each: how much every place changed, with channels last, and with them first


@dataclass(frozen=True)
class Surroundings:
    """What a forward pass shows.

    ``grids`` are the heights and widths of the maps that convolutions and poolings make; ``special`` counts the tokens
    without a place; ``changes`` says, for each layer with tokens or maps, which places a change of the image's top
    right and of its bottom left corner reaches.
    """

    grids: tuple[Grid, ...]
    special: int
    changes: dict[str, Changes]

    def in_place(self, layer: str, grid: Grid, channels_first: bool) -> bool:
        """Whether the places of ``layer`` on a ``grid`` change most in or near the corner of the image that changed."""
        if layer not in self.changes:
            return False
        changed = self.changes[layer][int(channels_first)].flatten(1)[:, -grid[0] * grid[1] :]
        (top, right), (bottom, left) = (divmod(place, grid[1]) for place in changed.argmax(dim=1).tolist())
        return top < grid[0] / 2 <= bottom + 0.5 and left < grid[1] / 2 <= right + 0.5


_known: WeakKeyDictionary[nn.Module, dict[torch.Size, Surroundings]] = WeakKeyDictionary()


def surroundings(model: nn.Module, x: Tensor) -> Surroundings:
    """What a pass of the first of ``x`` and of two copies with a changed corner shows; remembered for each model."""
    known = _known.setdefault(model, {})
    if x.shape[1:] not in known:
        known[x.shape[1:]] = _look(model, x[:1])
    return known[x.shape[1:]]


def _look(model: nn.Module, x: Tensor) -> Surroundings:
    grids: dict[Grid, None] = {}
    changes: dict[str, Changes] = {}

    def record(name: str, module: nn.Module, output: Tensor) -> None:
        if len(output) != len(images):
            return
        if output.ndim == 4 and isinstance(module, GRID_MAKERS):
            grids[(output.shape[2], output.shape[3])] = None
        if output.ndim in (3, 4) and output.is_floating_point():
            change = (output[1:] - output[:1]).square()
            changes[name] = change.sum(dim=-1), change.sum(dim=1)

    images = _with_changed_corners(x) if x.ndim == 4 else x.repeat(3, *[1] * (x.ndim - 1))
    with observed(model, record):
        model(images)
    found = [grid for grid in grids if grid[0] * grid[1] > 1] or _grids_of_patches(x)
    return Surroundings(tuple(found), _special_tokens(model), changes)


def _with_changed_corners(x: Tensor) -> Tensor:
    """``x`` (1, C, H, W), the same with another top right corner, and with another bottom left."""
    height, width = x.shape[2:]
    down, right = max(1, height // 8), max(1, width // 8)
    images, other = x.repeat(3, 1, 1, 1), torch.where(x < 0.5, x + 1, x - 1)[0]
    images[1, :, :down, width - right :] = other[:, :down, width - right :]
    images[2, :, height - down :, :right] = other[:, height - down :, :right]
    return images


def _grids_of_patches(x: Tensor) -> list[Grid]:
    """All grids of square patches that an image can be cut into: for models that cut without a convolution."""
    if x.ndim != 4:
        return []
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


_stretched: WeakKeyDictionary[nn.Module, dict[torch.Size, dict[str, tuple[int, ...]]]] = WeakKeyDictionary()


def shape_when_stretched(model: nn.Module, layer: str, x: Tensor) -> tuple[int, ...] | None:
    """The shape of what ``layer`` puts out for an input of twice the width, with as many rows as ``x``.

    None if the model takes no such input. One pass serves all layers.
    """
    known = _stretched.setdefault(model, {})
    if x.shape[1:] not in known:
        shapes: dict[str, tuple[int, ...]] = {}
        try:
            with observed(model, lambda name, module, output: shapes.update({name: tuple(output.shape)})):
                model(torch.cat([x[:1], x[:1]], dim=-1))
        except Exception:  # whatever the model runs into with inputs of another size
            shapes = {}
        known[x.shape[1:]] = shapes
    shape = known[x.shape[1:]].get(layer)
    return None if shape is None else (len(x), *shape[1:])


@contextmanager
def observed(model: nn.Module, record: Callable[[str, nn.Module, Tensor], None]) -> Iterator[None]:
    """Inside, each layer that puts out a tensor calls ``record(name, layer, output)``; without gradients."""

    def hook(name: str) -> Callable[[nn.Module, tuple, object], None]:
        return lambda module, args, output: record(name, module, output) if isinstance(output, Tensor) else None

    with ExitStack() as hooks, evaluating(model), torch.no_grad():
        for name in layer_names(model):
            hooks.callback(find_layer(model, name).register_forward_hook(hook(name)).remove)
        yield


def proportional(grid: Grid, size: Grid) -> bool:
    """Whether a grid of places has the proportions of an image of this ``size``, as far as whole numbers allow."""
    (height, width), (rows, columns) = size, grid
    if rows > height or columns > width:
        return False
    if height == width:
        return rows == columns
    return abs(rows * width - columns * height) <= 2 * max(height, width)  # unpadded borders and rounding
