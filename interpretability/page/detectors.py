"""What channels and groups of channels look for: their visualisations, made once and kept."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from interpretability.devices import device_of, in_portions
from interpretability.layers import evaluating, forward_to
from interpretability.maps import Maps, as_maps
from interpretability.page.cache import PictureCache, digest, model_digest
from interpretability.visualization import Objective, channel, direction, visualize

SIDE, FINE_SIDE, STEPS = 96, 64, 64
BATCH, BATCH_OF_A_GPU = 25, 250  # pictures drawn together
COARSE_STRIDE = 12  # pixels from place to place, from which on units see too much for the smaller side
DIRECTION_DIGITS = 3  # directions are rounded before they are drawn, so that rounding elsewhere keeps them in the cache


class Detectors:
    """Draws detectors of ``model`` for images (C, H, W), through a cache.

    Args:
        model: see :class:`~interpretability.attribution.Attribution`.
        image_shape: (C, H, W) of what the model is shown.
        cache: where pictures are looked for and kept.
        steps: of the ascent.
        progress: whether bars are drawn.
        maps: how to read layers as maps, where the model does not tell.
    """

    def __init__(
        self,
        model: nn.Module,
        image_shape: Sequence[int],
        cache: PictureCache,
        steps: int = STEPS,
        progress: bool = False,
        maps: Maps = None,
    ):
        self.model, self.cache, self.steps, self.progress, self.maps = model, cache, steps, progress, maps
        self.image_shape = tuple(image_shape)
        self.model_digest = model_digest(model)

    def channels(self, layer: str, indices: Sequence[int]) -> list[Tensor]:
        """A picture (C, S, S) in [0, 1] for each of the channels ``indices``."""
        return self._pictures(layer, [(index, channel(layer, index, self.maps)) for index in indices], "detectors")

    def directions(self, layer: str, vectors: Tensor) -> list[Tensor]:
        """A picture for each row of ``vectors`` (M, C)."""
        scale = 10**DIRECTION_DIGITS
        rounded = (vectors.cpu() * scale).round() / scale
        wanted = [(vector, direction(layer, vector, self.maps)) for vector in rounded]
        return self._pictures(layer, wanted, "neuron groups")

    def _pictures(self, layer: str, wanted: Sequence[tuple[object, Objective]], what: str) -> list[Tensor]:
        if not wanted:
            return []
        shape = self._shape(layer)
        keys = [digest(self.model_digest, layer, what, shape, self.steps, key) for key, _ in wanted]
        found = [self.cache.get(key, shape) for key in keys]
        missing = [index for index, picture in enumerate(found) if picture is None]
        with tqdm(total=len(missing), desc=f"{what} of {layer}", disable=not (self.progress and missing)) as bar:

            def draw(part: slice) -> None:
                batch = missing[part]
                objectives = [wanted[index][1] for index in batch]
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "no view of the image changed")  # a grey picture says so too
                    drawn = visualize(self.model, objectives, shape, steps=self.steps)
                for index, picture in zip(batch, drawn):
                    found[index] = self.cache.put(keys[index], picture)
                bar.update(len(batch))

            at_once = BATCH if device_of(self.model) in (None, torch.device("cpu")) else BATCH_OF_A_GPU
            for _ in in_portions(len(missing), at_once, draw):
                pass
        return [picture for picture in found if picture is not None]

    def _shape(self, layer: str) -> tuple[int, int, int]:
        """At most ``SIDE``, less for layers whose units see little; the image's size if the model takes no other."""
        channels, height, width = self.image_shape
        x = torch.zeros(1, channels, min(SIDE, height), min(SIDE, width)).to(next(self.model.parameters()))
        try:
            with evaluating(self.model), torch.no_grad():
                output = forward_to(self.model, layer, x)
            places = as_maps(self.model, layer, x, output, self.maps).shape[2]
        except (RuntimeError, AssertionError, ValueError):
            return channels, height, width
        side = SIDE if places * COARSE_STRIDE <= x.shape[2] else FINE_SIDE
        return channels, min(side, height), min(side, width)
