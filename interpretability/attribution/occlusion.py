"""Occlusion: what the score loses when a window of the image is covered."""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interpretability.attribution.base import Attribution
from interpretability.attribution.batches import at_least, checked_batch_size, in_batches, stacked
from interpretability.attribution.integrated import expanded
from interpretability.layers import capture, check_rows, forward_from, separates
from interpretability.maps import Maps, Reading, reading_of
from interpretability.targets import Target, repeat_target, resolve_target, target_scores

PerAxis = int | tuple[int, ...] | None


class Occlusion(Attribution):
    """The drop in score when a window over all channels is covered, averaged over the windows on a pixel   eq. 4.8.

    Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2. Windows start
    every ``stride`` pixels; the last of a row or column is clipped at the border.

    Args:
        model: see :class:`Attribution`.
        layer: see :class:`Attribution`; its output is read by :mod:`interpretability.maps`.
        window: its size along each axis of places, or one number for all; by default a quarter of each. Images have
            height and width, signals (N, C, L) a length, volumes (N, C, D, H, W) three axes, vectors (N, D) one.
        stride: likewise, by default half the window; at most the window, so that every pixel is covered.
        baseline: the value a covered pixel takes, a number or a tensor that broadcasts to a sample.
        batch_size: rows in a forward pass; by default as many as run fastest.
        maps: how to read the layer's output as maps, where the model does not tell.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        window: int | tuple[int, ...] | None = None,
        stride: int | tuple[int, ...] | None = None,
        baseline: float | Tensor = 0.0,
        batch_size: int | None = None,
        maps: Maps = None,
    ):
        super().__init__(model, layer)
        self.window, self.stride, self.maps = _checked("window", window), _checked("stride", stride), maps
        self.baseline = baseline
        self.batch_size = checked_batch_size(batch_size)

    @torch.no_grad()
    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward pass per window and sample, in batches."""
        with capture(self.model, [] if self.layer is None else [self.layer]) as outputs:
            logits = self.model(x.clone())
        target = resolve_target(logits, target)
        whole = target_scores(logits, target)  # (N,)
        point = x if self.layer is None else outputs[self.layer]
        check_rows(point, self.layer, len(x))
        alone = self.layer is None or separates(self.model, self.layer, x, point, logits)
        places = self._places(x, point)
        masks = window_masks(places.sizes, self.window, self.stride).to(point.device)  # (windows, h, w)
        baseline = expanded(torch.as_tensor(self.baseline, dtype=point.dtype, device=point.device), point)

        def part(windows: slice) -> Tensor:
            covered = masks[windows]
            k = len(covered)
            hidden = places.spread(covered)[:, None]  # (k, 1, 1, h, w)
            points = torch.where(hidden, baseline, point).flatten(0, 1)  # (kN, C, h, w)
            logits = forward_from(self.model, self.layer, points, x[:1] if alone else stacked(x, k))
            drop = whole - target_scores(logits, repeat_target(target, k)).view(k, len(x))
            return drop.T @ covered.flatten(1).to(point)

        total = reduce(torch.add, in_batches(len(masks), x, self.batch_size, "occlusion", part))
        mean = (total / masks.flatten(1).sum(dim=0)).view(len(x), *places.sizes)
        return places.spread(mean).expand_as(point).clone()

    def _places(self, x: Tensor, point: Tensor) -> "Places":
        """The places of the point: of the input those of its axes, of a layer those of its maps."""
        if self.layer is None or point.ndim == 2 or point.ndim > 4:
            axes = (1,) if point.ndim == 2 else tuple(range(2, point.ndim))
            return Places(tuple(point.shape), axes)
        reading = reading_of(self.model, self.layer, x, point, self.maps)
        if not isinstance(reading, Reading):
            raise ValueError("Occlusion needs a layout in maps=, not a function: it has to find its way back")
        return Places(tuple(point.shape), reading.axes(point), reading.grid)


@dataclass(frozen=True)
class Places:
    """Where windows move: the ``axes`` of a point of this ``shape`` (N, …), of tokens the ``grid`` that they lie on."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    grid: tuple[int, int] | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many places there are along each axis."""
        return self.grid or tuple(self.shape[axis] for axis in self.axes)

    def spread(self, values: Tensor) -> Tensor:
        """Values (M, *sizes) of each place so that they broadcast to points (M, …); tokens without a place get 0."""
        if self.grid is not None:
            values = values.flatten(1)
            values = F.pad(values, (self.shape[self.axes[0]] - values.shape[1], 0))
        return values.view(len(values), *(self.shape[a] if a in self.axes else 1 for a in range(1, len(self.shape))))


def window_masks(sizes: tuple[int, ...], window: PerAxis, stride: PerAxis) -> Tensor:
    """Which places each window covers: bool (windows, *sizes), row by row."""
    widths = _per_axis("window", window, sizes) or tuple(-(-size // 4) for size in sizes)
    steps = _per_axis("stride", stride, sizes) or tuple(-(-width // 2) for width in widths)
    names = {1: ("length",), 2: ("height", "width")}.get(len(sizes), ("depth", "height", "width"))
    masks = torch.ones(1, dtype=torch.bool)
    for name, size, width, step in zip(names, sizes, widths, steps):
        if width > size:
            raise ValueError(f"window {width} is larger than the {name} {size} of what it covers")
        if step > width and width < size:
            raise ValueError(f"stride {step} is larger than the window {width}: some pixels would never be covered")
        starts = torch.arange(-(-(size - width) // step) + 1) * step
        places = torch.arange(size)
        side = (places >= starts[:, None]) & (places < starts[:, None] + width)  # (starts, size)
        masks = (masks[:, None, ..., None] & side.view(1, len(side), *[1] * (masks.ndim - 1), size)).flatten(0, 1)
    return masks


def _checked(name: str, value: PerAxis) -> PerAxis:
    for size in () if value is None else (value,) if isinstance(value, int) else value:
        at_least(name, size, 1)
    return value


def _per_axis(name: str, value: PerAxis, sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    if value is None or isinstance(value, int):
        return None if value is None else (value,) * len(sizes)
    if len(value) != len(sizes):
        raise ValueError(f"{name} has {len(value)} numbers for {len(sizes)} axes of places, {sizes}")
    return tuple(value)
