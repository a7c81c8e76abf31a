"""From a model and an image to the page: what is computed, in which order, and how it is put together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from interpretability.adversarial import pgd, quantize
from interpretability.attribution.base import check_input
from interpretability.choice import choose_layers
from interpretability.devices import on_models_device
from interpretability.examples import influential_training_images, similar_training_images
from interpretability.layers import evaluating, find_layer
from interpretability.maps import Maps
from interpretability.page.cache import PictureCache
from interpretability.page.detectors import STEPS, Detectors
from interpretability.page.encoding import picture
from interpretability.page.layer_data import flows, layer_entry, read_layers
from interpretability.page.rendering import render_page
from interpretability.page.saliency import saliency_maps

HERE = Path(__file__).parent
SCRIPTS = ("state.js", "stage.js", "panels.js", "flow.js", "page.js")
LIKELIEST = 5
COLOR_EPSILON, GREY_EPSILON = 2 / 255, 0.15  # a digit's strokes stand more change before one sees it
ATTACK_STEPS = 20
EXAMPLES, TRAINING_ROWS = 6, 100
LARGEST_SIDE = 1024


@dataclass(frozen=True)
class PageOptions:
    """What a page shows, and how much of it.

    Args:
        layers: dotted names, early to late; empty: up to four are chosen.
        classes: indices to offer first: the first is explained, the second stands against it. The likeliest
            follow.
        n_groups: neuron groups a layer.
        top: detectors listed at a place.
        pictured: channels a layer that are visualised; the others show their strongest patch.
        steps: of each visualisation.
        epsilon: largest change of a pixel in the adversarial twin; None for 2/255 in colour, 0.15 in grey.
        twin: the class the twin is to be taken for; None for any but the right one.
        progress: whether bars are drawn.
        maps: how to read layers as maps, where the model does not tell.
        training: training images (M, C, H, W) and their classes (M,), of which the page shows those that speak for
            the decision; None where they are not known.
    """

    layers: Sequence[str] = ()
    classes: Sequence[int] = field(default_factory=tuple)
    n_groups: int = 6
    top: int = 5
    pictured: int = 50
    steps: int = STEPS
    epsilon: float | None = None
    twin: int | None = None
    progress: bool = False
    maps: Maps = None
    training: tuple[Tensor, Tensor] | None = None


@on_models_device
def build_page(
    model: nn.Module,
    image: Tensor,
    class_names: Sequence[str],
    *,
    model_name: str,
    image_name: str,
    options: PageOptions | None = None,
    cache: PictureCache | None = None,
) -> str:
    """The page as HTML that needs nothing else: no file, no network.

    Args:
        model: pixels in [0, 1] in, logits (N, K) out.
        image: (C, H, W) in [0, 1]; one channel or three.
        class_names: of the K outputs, any text; outputs beyond them are called by their number.
        model_name: as the page shall call the model.
        image_name: as the page shall call the image.
        options: what to show.
        cache: of visualisations; by default the user's.

    Raises:
        ValueError: an image that is none, an unknown layer or one without places, a class out of range.
    """
    options = options or PageOptions()
    _check(image)
    x = (image[None] * 255).round() / 255  # as the page's own picture holds it
    with evaluating(model), torch.no_grad():
        logits = model(x.clone())[0]
    names = [class_names[k] if k < len(class_names) else f"class {k}" for k in range(len(logits))]
    for name in options.layers:
        find_layer(model, name)
    layers = list(options.layers) or choose_layers(model, x, maps=options.maps)
    twin, epsilon = _twin(model, x, int(logits.argmax()), options)
    both = torch.cat([x, twin])
    with evaluating(model), torch.no_grad():
        logits = model(both.clone())
    classes = offered_classes(logits, options.classes)
    cache = cache or PictureCache()
    detectors = Detectors(model, image.shape, cache, options.steps, options.progress, options.maps)
    states = read_layers(model, layers, both, classes, options.n_groups, options.maps)
    data = {
        "model": model_name,
        "image": image_name,
        "size": list(image.shape[1:]),
        "classes": [names[k] for k in classes],
        "outputs": len(names),
        "views": [_view(picture(one), scores, names) for one, scores in zip(both, logits)],
        "noise": _noise(twin, x, epsilon),
        "layers": [layer_entry(state, detectors, options.top, options.pictured) for state in states],
        "flows": [
            flows(model, earlier, later, both, options.maps)
            for earlier, later in tqdm(list(pairwise(states)), desc="layer to layer", disable=not options.progress)
        ],
        "methods": saliency_maps(model, both, classes, layers[-1], cache, options.progress, options.maps),
        "detail": layers[-1],
        "candidates": 0 if options.training is None else len(options.training[1]),
        "examples": examples(model, x, classes[:1], layers[-1], names, options.training),
    }
    return render(data)


def render(data: dict[str, object]) -> str:
    """The template with styles, scripts and data in it; text in ``data`` is escaped whatever it holds."""
    return render_page(HERE / "page.html", data, [HERE / name for name in SCRIPTS])


def offered_classes(logits: Tensor, wanted: Sequence[int]) -> list[int]:
    """The classes a page lets one choose from, by the logits (2, K) of the image and its twin.

    Those ``wanted``, then what the image is taken for, what its twin is, and the image's likeliest.
    """
    outputs = logits.shape[1]
    for k in wanted:
        if not 0 <= k < outputs:
            raise ValueError(f"class {k} is out of range: the model has {outputs} outputs (0 … {outputs - 1})")
    likeliest = logits[0].argsort(descending=True)[: min(LIKELIEST, outputs)].tolist()
    return list(dict.fromkeys([*wanted, *logits.argmax(1).tolist(), *likeliest]))


def examples(
    model: nn.Module,
    x: Tensor,
    target: Sequence[int],
    layer: str,
    names: Sequence[str],
    training: tuple[Tensor, Tensor] | None,
) -> list[dict[str, object]]:
    """Training images most like ``x`` in ``layer``, and those whose steps spoke most for ``target``; none of none."""
    if training is None:
        return []
    loader = list(zip(*(part.split(TRAINING_ROWS) for part in training)))
    asked = torch.tensor(target, device=x.device)
    found = {
        "Most like it": similar_training_images(model, layer, x, loader, EXAMPLES),
        f"Speak most for {names[target[0]]}": influential_training_images([(model, 1.0)], x, asked, loader, EXAMPLES),
    }
    return [
        {"title": title, "images": [_example(training, int(n), names) for n in best.indices[0]]}
        for title, best in found.items()
    ]


def _example(training: tuple[Tensor, Tensor], n: int, names: Sequence[str]) -> dict[str, str]:
    return {"picture": picture(training[0][n]), "name": names[int(training[1][n])]}


def _twin(model: nn.Module, x: Tensor, predicted: int, options: PageOptions) -> tuple[Tensor, float]:
    """An image within ε of ``x``, in 8 bits, that the model takes for something else if PGD finds one."""
    default = GREY_EPSILON if x.shape[1] == 1 else COLOR_EPSILON
    epsilon = default if options.epsilon is None else options.epsilon
    targeted = options.twin is not None
    target = predicted if options.twin is None else options.twin
    return quantize(pgd(model, x, target, epsilon, steps=ATTACK_STEPS, targeted=targeted), x, epsilon), epsilon


def _view(uri: str, logits: Tensor, names: Sequence[str]) -> dict[str, object]:
    probabilities = logits.softmax(0)
    best = probabilities.argsort(descending=True)[:LIKELIEST].tolist()
    return {"picture": uri, "predictions": [[names[k], float(probabilities[k])] for k in best]}


def _noise(twin: Tensor, x: Tensor, epsilon: float) -> dict[str, object]:
    change = twin - x
    largest = float(change.abs().max())
    return {
        "picture": picture((0.5 + change / (2 * largest or 1.0))[0]),
        "epsilon": epsilon,
        "largest": round(largest * 255),
    }


def _check(image: Tensor) -> None:
    check_input(image)
    if image.ndim != 3 or image.shape[0] not in (1, 3) or max(image.shape[1:]) > LARGEST_SIDE:
        raise ValueError(
            f"a page shows one image (1 or 3, H, W) of at most {LARGEST_SIDE} pixels a side; got {tuple(image.shape)}"
        )
    if image.min() < 0 or image.max() > 1:
        raise ValueError(f"pixels must lie in [0, 1]; there are {image.min():.4g} to {image.max():.4g}")
