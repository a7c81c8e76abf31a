"""The one place that reads a layer's output as maps (N, C, h, w): C units at h × w places.

Networks lay their values out in different ways: channels first as convolutions do, channels last as Swin does, tokens
(N, T, C) as vision transformers do, with class, distillation or register tokens in front. Which of them it is follows
from the model and the input. Where two readings remain, the error names both, and ``maps=`` chooses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from interpretability.layers import find_layer
from interpretability.map_evidence import (
    Grid,
    Surroundings,
    proportional,
    shape_when_stretched,
    surroundings,
)
from interpretability.names import unknown

Layout = Literal["channels_first", "channels_last", "tokens"]
Maps = Layout | Callable[[Tensor], Tensor] | None
LAYOUTS = ("channels_first", "channels_last", "tokens")
CHANNELS_FIRST = {
    nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.PixelShuffle, nn.Upsample, nn.Dropout2d,
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """How outputs (N, …) of a layer become maps (N, C, h, w): views of them, so gradients pass.

    ``grid`` is the height and width in which tokens lie; the tokens before the last h · w have no place.
    ``flipped`` tokens are (N, C, T).
    """

    layout: Layout
    grid: Grid | None = None
    flipped: bool = False

    def __call__(self, output: Tensor) -> Tensor:
        """The maps. A vector (N, C) has one place; a signal (N, C, L) is one row."""
        if output.ndim == 2:
            return output[:, :, None, None]
        if self.grid is not None:
            tokens = output if self.flipped else output.transpose(1, 2)
            return tokens[:, :, tokens.shape[2] - self.grid[0] * self.grid[1] :].unflatten(2, self.grid)
        first = output.movedim(-1, 1) if self.layout == "channels_last" else output
        return first.unsqueeze(2) if first.ndim == 3 else first

    def axes(self, output: Tensor) -> tuple[int, ...]:
        """The axes of ``output`` that lead from place to place."""
        if self.grid is not None:
            return (2,) if self.flipped else (1,)
        return tuple(range(1, output.ndim - 1) if self.layout == "channels_last" else range(2, output.ndim))


_known: WeakKeyDictionary[nn.Module, dict[tuple, Reading]] = WeakKeyDictionary()


def reading_of(
    model: nn.Module, layer: str, x: Tensor, output: Tensor, maps: Maps = None
) -> Callable[[Tensor], Tensor]:
    """What makes maps (N, C, h, w) of outputs of ``layer``; remembered for each model.

    Args:
        model: the classifier.
        layer: dotted name of a layer.
        x: a batch (N, …) of its inputs.
        output: what ``layer`` puts out at ``x``.
        maps: the layout, or a function that makes the maps; None to find it out.

    Raises:
        ValueError: an output with no places, or one with two readings; the message names them.
    """
    if maps is not None and callable(maps):
        return maps
    if maps is not None and maps not in LAYOUTS:
        raise unknown("layout of maps", str(maps), LAYOUTS)
    known = _known.setdefault(model, {})
    key = (layer, maps, x.shape[1:], output.shape[1:])
    if key not in known:
        if len(output) != len(x):
            raise ValueError(f"layer {layer!r} returns {tuple(output.shape)} for {len(x)} samples: no row per sample")
        known[key] = _Reader(model, layer, x, output).read(maps)
    return known[key]


def as_maps(model: nn.Module, layer: str, x: Tensor, output: Tensor, maps: Maps = None) -> Tensor:
    """``output`` of ``layer`` at ``x`` as maps (N, C, h, w). Raises as :func:`reading_of` does."""
    found = reading_of(model, layer, x, output, maps)(output)
    if found.ndim != 4:
        raise ValueError(
            f"maps= made {tuple(found.shape)} of {tuple(output.shape)} of layer {layer!r}, not (N, C, h, w)"
        )
    return found


class _Reader:
    """Finds out how to read one layer."""

    def __init__(self, model: nn.Module, layer: str, x: Tensor, output: Tensor):
        self.model, self.layer, self.x = model, layer, x
        self.shape = tuple(output.shape)

    def read(self, layout: Layout | None) -> Reading:
        """The reading as the user says, or the only one that there is."""
        if len(self.shape) == 2:
            return Reading("channels_first")
        if len(self.shape) == 3 and (layout == "tokens" or (layout is None and self.x.ndim == 4)):
            return self._tokens(asked=layout is not None)
        if len(self.shape) not in (3, 4) or layout == "tokens":
            raise ValueError(f"{self._described()}: neither maps, tokens nor a vector; give maps= a function")
        if layout is not None:
            return Reading(layout)
        if type(find_layer(self.model, self.layer)) in CHANNELS_FIRST:
            return Reading("channels_first")
        return Reading(self._by_proportions() or self._by_stretching())

    def _by_proportions(self) -> Layout | None:
        """Which two axes have the proportions of the image, if only one pair has."""
        if len(self.shape) != 4 or self.x.ndim != 4:
            return None
        size = (self.x.shape[2], self.x.shape[3])
        first, last = ((self.shape[i], self.shape[i + 1]) for i in (2, 1))
        fits = {"channels_first": proportional(first, size), "channels_last": proportional(last, size)}
        square = first[0] == first[1] and size[0] % first[0]
        if fits["channels_first"] and square and first not in self._surroundings().grids:
            fits["channels_first"] = False  # tokens × tokens, as attention has them
        if all(fits.values()):  # a convolution or pooling that makes maps of one of the two sizes tells
            fits = {layout: grid in self._surroundings().grids for layout, grid in zip(fits, (first, last))}
        if all(fits.values()):  # a change of a corner tells where places lie
            around = self._surroundings()
            both = zip(fits, (first, last), (True, False))
            fits = {layout: around.in_place(self.layer, grid, is_first) for layout, grid, is_first in both}
        found: list[Layout] = [layout for layout, fit in fits.items() if fit]  # type: ignore[misc]
        return found[0] if len(found) == 1 else None

    def _by_stretching(self) -> Layout:
        """Which axis follows the width of the input; an error where the model does not take another one."""
        shape = shape_when_stretched(self.model, self.layer, self.x)
        changed = [] if shape is None else [i for i, sides in enumerate(zip(shape, self.shape)) if sides[0] != sides[1]]
        last = len(self.shape) - 1
        if changed in ([last], [last - 1]):
            return "channels_first" if changed == [last] else "channels_last"
        names = ", ".join(("N", *"ahw"[: len(self.shape) - 1]))
        raise ValueError(
            f"{self._described()}, which may be channels first or channels last ({names}):"
            " say which with maps='channels_first' or maps='channels_last'"
        )

    def _tokens(self, asked: bool) -> Reading:
        """The grid whose places the tokens are."""
        found = self._surroundings()
        count, width = self.shape[1:]
        if asked:
            fitting = [grid for grid in found.grids if grid[0] * grid[1] <= count]
            if not fitting:
                raise ValueError(f"{self._described()}: no grid of places fits {count} tokens; give maps= a function")
            return Reading("tokens", max(fitting, key=lambda grid: grid[0] * grid[1]))
        candidates = [Reading("tokens", grid) for grid in self._grids(found, count)]
        candidates += [Reading("tokens", grid, flipped=True) for grid in self._grids(found, width)]
        if len(candidates) == 1:
            (one,) = candidates
            if one.grid is not None and not found.in_place(self.layer, one.grid, one.flipped):
                raise ValueError(
                    f"{self._described()}: its tokens do not lie row by row, as a change of one corner of the image"
                    " shows; give maps= a function that puts them in their places"
                )
            return one
        if not candidates:
            raise ValueError(
                f"{self._described()}: no grid of the model's patches with its {found.special} special tokens makes"
                f" {count} tokens; say maps='tokens', maps='channels_first' for a signal, or give a function"
            )
        words = " or ".join(
            f"{'channels × ' if one.flipped else ''}tokens on {one.grid[0]} × {one.grid[1]}"
            for one in candidates
            if one.grid
        )
        raise ValueError(f"{self._described()}, which may be {words}: say maps='tokens', or give maps= a function")

    def _grids(self, found: Surroundings, count: int) -> list[Grid]:
        """The grids of which ``count`` tokens are the places, with at most the model's special tokens before them."""
        return [grid for grid in found.grids if 0 <= count - grid[0] * grid[1] <= found.special]

    def _surroundings(self) -> Surroundings:
        return surroundings(self.model, self.x)

    def _described(self) -> str:
        return f"layer {self.layer!r} puts out {self.shape}"
