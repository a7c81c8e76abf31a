"""Task 4: saliency at lower layers, what maximises other classes, and adversarial photos."""

import re
from typing import TYPE_CHECKING, Any

from exercising.places import half_area
from exercising.workspace import LAYERS, PHOTO_MODEL, SECOND_MODEL, Workspace, spearman

if TYPE_CHECKING:
    from torch import Tensor

PHOTOS = ("dog_cat", "china", "flower")
CHURCHES = ("church", "monastery", "bell cote")
OTHERS = ("bull mastiff", "tiger cat", "daisy")
COMPARED = ("church", "monastery", "African elephant", "daisy")  # as two networks see them
WANTED = "daisy"  # what the targeted attack makes of the photos
OVERLAP = 20  # leading channels that are compared


def saliency(work: Workspace) -> dict[str, Any]:
    """Maps at the input and at four layers; how spread they are, and how like the photo's edges."""
    import torch

    from interpretability import InputXGradient, Saliency
    from interpretability.building_blocks import spatial_attribution
    from interpretability.drawing import draw_maps, enlarged, flat_map

    photos = [work.photo(name) for name in PHOTOS]
    output = work.runs / "saliency"
    named = ("explain.py", "saliency", *photos, "--model", PHOTO_MODEL, "--weights", work.weights)
    work.command(*named, "--output", output, shown="python scripts/explain.py saliency PHOTO … --model squeezenet1_0")
    given = work.photographed(*PHOTOS)
    x, edges = given.images, edge_strength(given.images)
    rows = {"Saliency\ninput": flat_map(Saliency(given.model)(x), additive=False)}
    rows |= {f"effects\n{layer}": spatial_attribution(given.model, layer, x) for layer in LAYERS}
    logits = given.logits(x)
    best = logits.softmax(1).max(1)
    titles = [f"{given.label(int(i))} {float(p):.0%}" for p, i in zip(best.values, best.indices)]
    work.picture("task4-saliency.jpg", draw_maps(x, rows, titles))
    size = x.shape[2:]
    found: dict[str, Any] = {}
    for label, maps in rows.items():
        layer = label.rpartition("\n")[2]
        large = [enlarged(values.abs(), size) for values in maps]
        found[layer] = {
            "side": maps.shape[-1],
            "half_area": sum(map(half_area, maps)) / len(maps),
            "like_edges": sum(map(spearman, large, edges)) / len(maps),
        }
    product = flat_map(InputXGradient(given.model)(x))
    found["input"]["signs_alternate"] = neighbours_disagree(product)
    found[LAYERS[-1]]["signs_alternate"] = neighbours_disagree(rows[f"effects\n{LAYERS[-1]}"])
    noise = torch.rand(edges[0].shape, generator=torch.Generator().manual_seed(0))
    found["random"] = {"like_edges": spearman(noise, edges[0])}
    return {"layers": found}


def edge_strength(images: "Tensor") -> "Tensor":
    """The length of the brightness gradient (N, H, W), by Sobel's filters."""
    import torch
    from torch.nn.functional import conv2d, pad

    across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    filters = torch.stack([across, across.T])[:, None]
    grey = pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return conv2d(grey, filters).norm(dim=1)


def neighbours_disagree(maps: "Tensor") -> float:
    """The share of horizontally adjacent places whose attributions have opposite signs."""
    return float((maps[..., 1:] * maps[..., :-1] < 0).float().mean())


def classes(work: Workspace) -> dict[str, Any]:
    """What maximises classes, and whether the photos hold the same detectors as those pictures do."""
    import numpy as np
    import torch

    from interpretability.building_blocks import activation_maps, channel_attribution
    from interpretability.visualization.figures import draw_features

    output = work.runs / "classes"
    names = [*CHURCHES, *OTHERS]
    options = [word for name in names for word in ("--class", name)]
    named = ("explain.py", "features", "--model", PHOTO_MODEL, "--weights", work.weights, *options)
    shown = "python scripts/explain.py features --model squeezenet1_0 --weights FILE --class church …"
    printed = work.command(*named, "--size", 112, "--steps", 80, "--output", output, shown=shown)
    keys = ("seen", "probability", "views", "of")
    found: dict[str, Any] = {"recognised": {name: dict(zip(keys, r)) for name, r in recognised(printed).items()}}
    images = torch.from_numpy(np.load(output / "classes.npz")["images"])
    work.picture("task4-classes.jpg", draw_features(images, names, width=3))
    given = work.photographed("dog_cat", "china")
    layer = LAYERS[-1]
    shared = {}
    for photo, name in [(1, c) for c in CHURCHES] + [(0, c) for c in ("bull mastiff", "tiger cat")]:
        index = given.targets([name])[0]
        fires = activation_maps(given.model, layer, images[names.index(name)][None]).mean((0, 2, 3))
        effect = channel_attribution(given.model, layer, given.images[photo][None], index)[0]
        both = set(fires.topk(OVERLAP).indices.tolist()) & set(effect.topk(OVERLAP).indices.tolist())
        shared[name] = len(both)
    channels = len(effect)
    return found | {"shared": shared, "of": OVERLAP, "by_chance": OVERLAP**2 / channels, "channels": channels}


def networks(work: Workspace) -> dict[str, Any]:
    """The same four classes as two networks see them, at the size that both were trained on."""
    import numpy as np
    import torch

    from interpretability.visualization.figures import draw_features

    options = [word for name in COMPARED for word in ("--class", name)]
    rows, images, found = {"SqueezeNet": (PHOTO_MODEL, work.weights)}, [], {}
    rows["EfficientNet-Lite0"] = (f"timm:{SECOND_MODEL}", work.second_weights)
    for row, (model, weights) in rows.items():
        output = work.runs / "networks" / model.rpartition(":")[2]
        words = ("--model", model, "--weights", weights, *options, "--size", 224, "--output", output)
        shown = f"python scripts/explain.py features --model {model} --weights FILE --size 224 --class church …"
        printed = work.command("explain.py", "features", *words, shown=shown)
        found[row] = {name: views / of for name, (_, _, views, of) in recognised(printed).items()}
        images.append(torch.from_numpy(np.load(output / "classes.npz")["images"]))
    work.picture("task4-networks.jpg", draw_features(torch.cat(images), COMPARED, list(rows)))
    return {"views": found}


def recognised(printed: str) -> dict[str, tuple[str, float, int, int]]:
    """What ``explain.py features`` said of each class: seen as what, how surely, and in how many of the views."""
    pattern = r"^(.+?) +seen as (.+?) ([\d.]+)%; as .+ in (\d+) of (\d+) fresh"
    lines = re.findall(pattern, printed, re.MULTILINE)
    return {name.strip(): (seen, float(p) / 100, int(views), int(of)) for name, seen, p, views, of in lines}


def attack(work: Workspace) -> dict[str, Any]:
    """Untargeted and targeted changes of the photos, and how a digit network's accuracy falls with ε."""
    import numpy as np

    photos = [work.photo(name) for name in PHOTOS]
    named = ("explain.py", "attack", *photos, "--model", PHOTO_MODEL, "--weights", work.weights, "--epsilon", "2/255")
    common = "python scripts/explain.py attack PHOTO … --model squeezenet1_0 --weights FILE --epsilon 2/255"
    found: dict[str, Any] = {"wanted": WANTED}
    for kind, options in {"untargeted": (), "targeted": ("--target", WANTED)}.items():
        output = work.runs / f"attack-{kind}"
        printed = work.command(*named, *options, "--output", output, shown=" ".join([common, *options]))
        found[kind] = reported(printed)
    work.picture("task4-attack.jpg", next((work.runs / "attack-targeted").glob("*-more.png")))
    run = work.run_folder("mnist")
    curve = "0,0.025,0.05,0.1,0.15,0.2,0.3"
    options = ("--data", "mnist", "--data-dir", work.data_dir, "--split", "test", "--samples", 500, "--curve", curve)
    output = work.runs / "attack-mnist"
    shown = f"python scripts/explain.py attack --model runs/mnist/VERSION --split test --samples 500 --curve {curve}"
    work.command("explain.py", "attack", "--model", run, *options, "--steps", 20, "--output", output, shown=shown)
    work.picture("task4-robustness.png", output / "robustness-linf.png")
    arrays = np.load(output / "robustness-linf.npz")
    found["mnist"] = {name: [float(value) for value in arrays[name]] for name in ("epsilons", "fgsm", "pgd")}
    return found


def reported(printed: str) -> dict[str, Any]:
    """What ``explain.py attack`` said of each photo."""
    pattern = r"^(\w+): (.+?) ([\d.]+)% -> (.+?) ([\d.]+)% .*\n +L∞ ([\d.]+)/255, L2 ([\d.]+), PSNR ([\d.]+) dB"
    found = {}
    for name, was, p, now, q, linf, l2, psnr in re.findall(pattern, printed, re.MULTILINE):
        numbers = {"linf": float(linf), "l2": float(l2), "psnr": float(psnr)}
        found[name] = {"was": was, "was_p": float(p) / 100, "now": now, "now_p": float(q) / 100, **numbers}
    return found
