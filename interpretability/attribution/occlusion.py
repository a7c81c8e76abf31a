"""Occlusion: what the score loses when a window of the image is covered."""

import torch
from torch import Tensor, nn

from interpretability.attribution.base import Attribution
from interpretability.attribution.batches import at_least, batches, checked_batch_size, stacked
from interpretability.attribution.integrated import expanded
from interpretability.layers import capture, check_rows, forward_from, separates
from interpretability.targets import Target, repeat_target, resolve_target, target_scores


class Occlusion(Attribution):
    """The drop in score when a window over all channels is covered, averaged over the windows on a pixel   eq. 4.8.

    Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2. Windows start
    every ``stride`` pixels; the last of a row or column is clipped at the border.

    Args:
        model: see :class:`Attribution`.
        layer: see :class:`Attribution`; its output must be (N, C, h, w).
        window: height and width, or one number for both; by default a quarter of each side.
        stride: likewise, by default half the window; at most the window, so that every pixel is covered.
        baseline: the value a covered pixel takes, a number or a tensor that broadcasts to a sample.
        batch_size: rows in a forward pass; by default as many as run fastest.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        window: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] | None = None,
        baseline: float | Tensor = 0.0,
        batch_size: int | None = None,
    ):
        super().__init__(model, layer)
        self.window = None if window is None else _pair("window", window)
        self.stride = None if stride is None else _pair("stride", stride)
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
        masks = window_masks(point, self.window, self.stride)  # (windows, h, w)
        baseline = expanded(torch.as_tensor(self.baseline, dtype=point.dtype, device=point.device), point)
        total = torch.zeros(len(x), masks[0].numel()).to(point)
        for windows in batches(len(masks), x, self.batch_size, "occlusion"):
            covered = masks[windows]
            k = len(covered)
            points = torch.where(covered[:, None, None], baseline, point).flatten(0, 1)  # (kN, C, h, w)
            logits = forward_from(self.model, self.layer, points, x[:1] if alone else stacked(x, k))
            drop = whole - target_scores(logits, repeat_target(target, k)).view(k, len(x))
            total += drop.T @ covered.flatten(1).to(point)
        mean = (total / masks.flatten(1).sum(dim=0)).view(len(x), 1, *point.shape[2:])
        return mean.expand_as(point).clone()


def window_masks(point: Tensor, window: tuple[int, int] | None, stride: tuple[int, int] | None) -> Tensor:
    """Which positions each window covers: bool (windows, h, w), row by row."""
    if point.ndim != 4:
        raise ValueError(f"occlusion needs images or maps (N, C, h, w); got {tuple(point.shape)}")
    sizes = (point.shape[2], point.shape[3])
    widths = window or tuple(-(-size // 4) for size in sizes)
    steps = stride or tuple(-(-width // 2) for width in widths)
    sides = []
    for name, size, width, step in zip(("height", "width"), sizes, widths, steps):
        if width > size:
            raise ValueError(f"window {width} is larger than the {name} {size} of what it covers")
        if step > width and width < size:
            raise ValueError(f"stride {step} is larger than the window {width}: some pixels would never be covered")
        starts = torch.arange(-(-(size - width) // step) + 1, device=point.device) * step
        places = torch.arange(size, device=point.device)
        sides.append((places >= starts[:, None]) & (places < starts[:, None] + width))
    rows, columns = sides
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return at_least(name, height, 1), at_least(name, width, 1)
