"""What channels and groups of channels look for: their visualisations, made once and kept."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from interpretability.building_blocks import as_maps
from interpretability.layers import evaluating, forward_to
from interpretability.page.cache import PictureCache, digest, model_digest
from interpretability.visualization import Objective, channel, direction, visualize

SIDE, STEPS, BATCH = 96, 64, 25
DIRECTION_DIGITS = 3  # directions are rounded before they are drawn, so that rounding elsewhere keeps them in the cache


class Detectors:
    """Draws detectors of ``model`` for images (C, H, W), through a cache.

    Args:
        model: see :class:`~interpretability.attribution.Attribution`.
        image_shape: (C, H, W) of what the model is shown.
        cache: where pictures are looked for and kept.
        steps: of the ascent.
        progress: whether bars are drawn.
    """

    def __init__(
        self,
        model: nn.Module,
        image_shape: Sequence[int],
        cache: PictureCache,
        steps: int = STEPS,
        progress: bool = False,
    ):
        self.model, self.cache, self.steps, self.progress = model, cache, steps, progress
        self.image_shape = tuple(image_shape)
        self.model_digest = model_digest(model)

    def channels(self, layer: str, indices: Sequence[int]) -> list[Tensor]:
        """A picture (C, S, S) in [0, 1] for each of the channels ``indices``."""
        return self._pictures(layer, [(index, channel(layer, index)) for index in indices], "detectors")

    def directions(self, layer: str, vectors: Tensor) -> list[Tensor]:
        """A picture for each row of ``vectors`` (M, C)."""
        scale = 10**DIRECTION_DIGITS
        rounded = (vectors.cpu() * scale).round() / scale
        return self._pictures(layer, [(vector, direction(layer, vector)) for vector in rounded], "neuron groups")

    def _pictures(self, layer: str, wanted: Sequence[tuple[object, Objective]], what: str) -> list[Tensor]:
        if not wanted:
            return []
        shape = self._shape(layer)
        keys = [digest(self.model_digest, layer, what, shape, self.steps, key) for key, _ in wanted]
        found = [self.cache.get(key, shape) for key in keys]
        missing = [index for index, picture in enumerate(found) if picture is None]
        with tqdm(total=len(missing), desc=f"{what} of {layer}", disable=not (self.progress and missing)) as bar:
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                objectives = [_laid_out(wanted[index][1], layer) for index in batch]
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "no view of the image changed")  # a grey picture says so too
                    drawn = visualize(self.model, objectives, shape, steps=self.steps)
                for index, picture in zip(batch, drawn):
                    found[index] = self.cache.put(keys[index], picture)
                bar.update(len(batch))
        return [picture for picture in found if picture is not None]

    def _shape(self, layer: str) -> tuple[int, int, int]:
        """The smaller of ``SIDE`` and the image, or the image's own size where the model takes no other."""
        channels, height, width = self.image_shape
        small = (channels, min(SIDE, height), min(SIDE, width))
        parameter = next(self.model.parameters())
        try:
            with evaluating(self.model), torch.no_grad():
                forward_to(self.model, layer, torch.zeros(1, *small).to(parameter))
        except (RuntimeError, AssertionError, ValueError):
            return channels, height, width
        return small


def _laid_out(objective: Objective, layer: str) -> Objective:
    """The objective on a layer's output read as maps."""
    score: Callable = objective.score
    return Objective(objective.label, objective.layers, lambda out: score({layer: as_maps(out[layer], layer)}))
