"""Saliency methods side by side: which pixels, says each, the score of a class hangs on."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from interpretability.attribution import METHODS
from interpretability.attribution.attention import attends
from interpretability.attribution.segments import for_pictures
from interpretability.maps import Maps
from interpretability.page.cache import PictureCache, digest, model_digest
from interpretability.page.encoding import overlay

FOR, AGAINST, EITHER = (240, 138, 36), (52, 120, 246), (190, 72, 214)
CLIPPED = 0.995  # the share of pixels below full opacity
GAMMA = 0.7  # brightens what is weak


@dataclass(frozen=True)
class Shown:
    """A method, how the page reads it, and what it tells."""

    name: str
    title: str
    signed: bool
    text: str
    options: dict[str, object] = field(default_factory=dict)


GRADIENT = "How sharply the score reacts to each pixel. Noisy by nature."
SMOOTHED = "The gradient, averaged over noisy copies of the image."
INTEGRATED = "Each pixel’s part in the score’s rise from a black image to this one. Black pixels get none."
RELEVANCE = "The score, handed back layer by layer to the pixels."
GUIDED = "Sharp, but mostly an edge finder: it changes little with the class. Do not take it for evidence."
CAM = "Where the last layer’s maps speak for the class. Coarse, and only what is for it."
OCCLUDED = "What the score loses when a square is covered in black. No gradient involved."
PLAYED = "What each of 8 × 8 patches adds on average, whichever others are there. Together, the rise from black."
ATTENDED = "The attention that raises the score, followed from layer to layer to the patches."
ROLLED = "How much of each patch attention carries to the output, whatever the class."

SHOWN = (
    Shown("Saliency", "Gradient", False, GRADIENT),
    Shown("SmoothGrad", "SmoothGrad", False, SMOOTHED, {"n_samples": 12}),
    Shown("IntegratedGradients", "Integrated gradients", True, INTEGRATED, {"n_steps": 16}),
    Shown("LRP", "Relevance propagation", True, RELEVANCE),
    Shown("GuidedBackprop", "Guided backprop", False, GUIDED),
    Shown("GradCAM", "Grad-CAM", True, CAM),
    Shown("Occlusion", "Occlusion", True, OCCLUDED),
    Shown("KernelShap", "Shapley values", True, PLAYED, {"n_samples": 256}),
)
ATTENTION = (
    Shown("LRP", "Relevance propagation", True, RELEVANCE, {"rule": "attention"}),
    Shown("AttentionGradient", "Attention × gradient", False, ATTENDED),
    Shown("AttentionRollout", "Attention rollout", False, ROLLED),
)


def methods_for(model: nn.Module, x: Tensor) -> list[Shown]:
    """What to show: in a transformer relevance goes by attention's rules, and attention itself speaks too."""
    if not attends(model, x[:1]):
        return list(SHOWN)
    return [ATTENTION[0] if shown.name == "LRP" else shown for shown in SHOWN] + list(ATTENTION[1:])


def saliency_maps(
    model: nn.Module,
    x: Tensor,
    classes: Sequence[int],
    layer: str,
    cache: PictureCache,
    progress: bool,
    how: Maps = None,
) -> list[dict[str, object]]:
    """For each method its overlays by image of ``x`` (N, C, H, W) and class, or why it has none."""
    found = []
    digest_of_model, methods = model_digest(model), methods_for(model, x)
    with tqdm(total=len(methods) * len(x), desc="saliency methods", disable=not progress) as bar:
        for shown in methods:
            entry: dict[str, object] = {"title": shown.title, "text": shown.text, "signed": shown.signed}
            options = _options(shown, x.shape, layer, how)
            try:
                maps_by_image = []
                for image in x:
                    keys = [digest(digest_of_model, image, k, shown.name, *sorted(options.items())) for k in classes]
                    maps = _cached(cache, keys, lambda: _maps(model, image, classes, shown, options), x.shape[2:])  # noqa: B023
                    colors = (FOR, AGAINST) if shown.signed else (EITHER, EITHER)
                    maps_by_image.append([overlay(one, *colors) for one in maps])
                    bar.update()
                found.append({**entry, "maps": maps_by_image})
            except (ValueError, TypeError, NotImplementedError) as error:
                found.append({**entry, "maps": None, "missing": str(error)})
    return found


def _cached(cache: PictureCache, keys: Sequence[str], make: Callable[[], Tensor], size: Sequence[int]) -> list[Tensor]:
    """Maps (H, W) in [-1, 1] from the cache, or all made anew where one is missing."""
    found = [cache.get(key, (1, size[0], size[1])) for key in keys]
    if any(one is None for one in found):
        found = [cache.put(key, (one[None] + 1) / 2) for key, one in zip(keys, make())]
    return [2 * one[0] - 1 for one in found if one is not None]


def _options(shown: Shown, shape: Sequence[int], layer: str, how: Maps) -> dict[str, object]:
    options: dict[str, object] = dict(shown.options)
    if shown.name == "GradCAM":
        options |= {"layer": layer, "maps": how}
    if shown.name == "Occlusion":
        options["window"] = options["stride"] = max(2, round(min(shape[2:]) / 9))
    return options


def _maps(model: nn.Module, image: Tensor, classes: Sequence[int], shown: Shown, options: dict) -> Tensor:
    """The method's maps (K, H, W), clipped, scaled to [-1, 1] and brightened."""
    targets = torch.tensor(classes, device=image.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "integrated gradients miss completeness")  # a picture needs fewer steps
        played: dict = {"segments": for_pictures} if shown.name == "KernelShap" else {}
        maps = METHODS[shown.name](model, **options, **played)(image.repeat(len(classes), 1, 1, 1), targets)
    flat = maps.sum(1) if shown.signed else maps.abs().amax(1)  # (K, h, w)
    if flat.shape[1:] != image.shape[1:]:
        flat = F.interpolate(flat[:, None], image.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    scale = flat.abs().flatten(1).quantile(CLIPPED, dim=1).clamp(min=torch.finfo(flat.dtype).tiny)
    scaled = (flat / scale[:, None, None]).clamp(-1, 1)
    return scaled.sign() * scaled.abs() ** GAMMA
