"""Task 3, the detectors: what the numbers beside them mean, and how they differ from layer to layer."""

from typing import TYPE_CHECKING, Any

from exercising.workspace import LAYERS, PHOTO_MODEL, Workspace, spearman

if TYPE_CHECKING:
    from torch import Tensor, nn

DOG, CAT = "bull mastiff", "tiger cat"
PLACES = {"dog": (105, 38), "cat": (155, 147)}  # (x, y) in the photo's pixels: the middle of each face
SHOWN = 5
ROWS = 16  # forward passes at once


def detectors(work: Workspace) -> dict[str, Any]:
    """Activation and effect of the detectors at two places, and which of the two foretells what removing one does."""
    from interpretability.building_blocks import activations_and_gradients

    given = work.photographed("dog_cat")
    dog, cat = given.targets([DOG, CAT])
    x, last = given.images, LAYERS[-1]
    logits = given.logits(x)[0]
    for_dog, for_cat = (activations_and_gradients(given.model, LAYERS, x, target) for target in (dog, cat))
    found: dict[str, Any] = {"logit": {"dog": float(logits[dog]), "cat": float(logits[cat])}}
    found["probability"] = {"dog": float(logits.softmax(0)[dog]), "cat": float(logits.softmax(0)[cat])}
    for name, (across, down) in PLACES.items():
        activation, gradient = (part[0] for part in for_dog[last])
        side, size = activation.shape[-1], x.shape[-1]
        row, column = down * side // size, across * side // size
        strongest = activation[:, row, column].topk(SHOWN)
        found[f"at_{name}"] = [
            {
                "channel": int(channel),
                "activation": float(value),
                "for_dog": float((activation * gradient)[channel, row, column]),
                "for_cat": float((for_cat[last][0] * for_cat[last][1])[0, channel, row, column]),
            }
            for value, channel in zip(strongest.values, strongest.indices)
        ]
    found["layers"] = {layer: foretelling(given.model, layer, x, dog, *for_dog[layer]) for layer in LAYERS}
    effects = (for_dog[last][0] * for_dog[last][1]).sum()
    found["sum_of_effects"] = float(effects)
    return found


def foretelling(
    model: "nn.Module", layer: str, x: "Tensor", target: int, activation: "Tensor", gradient: "Tensor"
) -> dict[str, float]:
    """Rank correlations over channels of what removing one costs the logit, with its effect and its activation."""
    import torch
    from tqdm import tqdm

    from interpretability.layers import evaluating, find_layer, forward_from

    channels = activation.shape[1]
    in_place = getattr(find_layer(model, layer), "inplace", False)  # then the batch cannot grow at the layer
    drops = []
    with evaluating(model), torch.no_grad():
        whole = model(x)[0, target]
        for part in tqdm(torch.arange(channels).split(ROWS), desc=f"without a channel of {layer}"):
            without = activation.repeat(len(part), 1, 1, 1)
            without[torch.arange(len(part)), part] = 0
            drops.append(
                whole - forward_from(model, layer, without, x.repeat(len(part) if in_place else 1, 1, 1, 1))[:, target]
            )
    drop, effect = torch.cat(drops), (activation * gradient).sum((0, 2, 3))
    fires = activation.sum((0, 2, 3))
    alive = fires > 0
    return {
        "channels": channels,
        "alive": int(alive.sum()),
        "effect_and_drop": spearman(effect[alive], drop[alive]),
        "activation_and_drop": spearman(fires[alive], drop[alive]),
        "sum_of_effects": float(effect.sum()),
    }


def dictionary(work: Workspace) -> dict[str, Any]:
    """The leading detectors of each layer as pictures, and what tells the layers apart in numbers."""
    import numpy as np
    import torch

    from interpretability.building_blocks import activation_maps, channel_attribution, semantic_dictionary
    from interpretability.visualization.figures import draw_features

    given = work.photographed("dog_cat")
    dog, cat = given.targets([DOG, CAT])
    found: dict[str, Any] = {}
    rows, titles = [], []
    for layer in LAYERS:
        leaders = semantic_dictionary(given.model, layer, given.images).leaders(SHOWN)
        output = work.runs / "features"
        channels = [word for channel in leaders for word in ("--channel", channel)]
        options = ("--layer", layer, *channels, "--size", 112, "--steps", 96, "--output", output)
        model = ("features", "--model", PHOTO_MODEL, "--weights", work.weights)
        chosen = " ".join(f"--channel {channel}" for channel in leaders)
        shown = f"python scripts/explain.py features --model {PHOTO_MODEL} --weights FILE --layer {layer} {chosen}"
        work.command("explain.py", *model, *options, shown=shown)
        rows.append(torch.from_numpy(np.load(output / f"{layer}.npz")["images"]))
        titles += [f"{layer}: {channel}" for channel in leaders]
        maps = activation_maps(given.model, layer, given.images)
        for_dog, for_cat = (channel_attribution(given.model, layer, given.images, c)[0] for c in (dog, cat))
        found[layer] = {
            "leaders": leaders,
            "channels": maps.shape[1],
            "side": maps.shape[-1],
            "receptive_field": receptive_field(given.model, layer, given.images),
            "silent": float((maps == 0).float().mean()),
            "dog_and_cat": float(torch.cosine_similarity(for_dog, for_cat, dim=0)),
        }
    work.picture("task3-dictionary.jpg", draw_features(torch.cat(rows), titles, width=SHOWN))
    readout = given.model.get_submodule("model.classifier.1").weight  # the layer that turns detectors into classes
    return {"layers": found, "zero_weights": float((readout == 0).float().mean())}


def receptive_field(model: "nn.Module", layer: str, x: "Tensor") -> int:
    """How many pixels high the part of the image is that the central place of ``layer`` depends on."""
    import torch

    from interpretability.layers import capture, evaluating

    with evaluating(model), capture(model, [layer]) as outputs:
        leaf = x.clone().requires_grad_()
        model(leaf)
        maps = outputs[layer]
        middle = maps.shape[-1] // 2
        (gradient,) = torch.autograd.grad(maps[0, :, middle, middle].sum(), leaf)
    seen = gradient[0].abs().amax((0, 2)).nonzero()
    return int(seen.max() - seen.min()) + 1
