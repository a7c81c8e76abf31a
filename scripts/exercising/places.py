"""Task 3, places and groups: where each layer looks, what fires together, and what covering parts of a photo does."""

from typing import TYPE_CHECKING, Any

from exercising.detectors import CAT, DOG
from exercising.workspace import LAYERS, Workspace, spearman

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from interpretability.building_blocks import NeuronGroups

# left, top, right, bottom in the photo's pixels, drawn by hand; what is in neither is background
BOXES = {"dog": (76, 12, 174, 134), "cat": (40, 134, 204, 224)}
GROUPS = 6


def regions(side: int, size: int = 224) -> "dict[str, Tensor]":
    """Which of ``side``² places lie in the dog's box, in the cat's, in neither."""
    import torch

    found = {}
    middle = (torch.arange(side) + 0.5) * size / side
    for name, (left, top, right, bottom) in BOXES.items():
        rows, columns = (middle >= top) & (middle < bottom), (middle >= left) & (middle < right)
        found[name] = rows[:, None] & columns
    found["background"] = ~(found["dog"] | found["cat"])
    return found


def shares(values: "Tensor") -> dict[str, float]:
    """The share of the positive part of a map (h, w) that lies in each region."""
    positive = values.clamp(min=0)
    total = float(positive.sum()) or 1.0
    return {name: float(positive[where].sum()) / total for name, where in regions(values.shape[-1]).items()}


def half_area(values: "Tensor") -> float:
    """The smallest share of places that holds half of a map's magnitude."""
    ranked = values.abs().flatten().sort(descending=True).values.cumsum(0)
    return float((ranked < ranked[-1] / 2).sum() + 1) / len(ranked)


def places(work: Workspace) -> dict[str, Any]:
    """Spatial attribution to dog and cat at each layer: in which region, on how much of the image, how alike."""
    import torch

    from interpretability.building_blocks import spatial_attribution
    from interpretability.drawing import draw_maps, enlarged

    given = work.photographed("dog_cat")
    classes = dict(zip(("dog", "cat"), given.targets([DOG, CAT])))
    x, rows, found = given.images, {}, {}
    for layer in LAYERS:
        maps = {name: spatial_attribution(given.model, layer, x, c)[0] for name, c in classes.items()}
        rows[layer] = torch.stack([maps["dog"], maps["cat"], maps["dog"] - maps["cat"]])
        found[layer] = {f"for_{name}": shares(values) for name, values in maps.items()}
        found[layer]["half_area"] = half_area(maps["dog"])
        found[layer]["dog_against_cat"] = spearman(maps["dog"], maps["cat"])
        found[layer]["side"] = maps["dog"].shape[-1]
    last = enlarged(rows[LAYERS[-1]][0], x.shape[2:])
    for layer in LAYERS:
        found[layer]["like_last"] = spearman(enlarged(rows[layer][0], x.shape[2:]), last)
    titles = [f"for {DOG}", f"for {CAT}", f"{DOG} − {CAT}"]
    work.picture("task3-places.jpg", draw_maps(x.expand(3, -1, -1, -1), rows, titles))
    area = {name: float(where.float().mean()) for name, where in regions(x.shape[-1]).items()}
    return {"layers": found, "area": area}


def groups(work: Workspace) -> dict[str, Any]:
    """Neuron groups at each layer, where they fire and what they do to the two classes."""
    from interpretability.building_blocks import attribution, neuron_groups

    given = work.photographed("dog_cat")
    targets = given.targets([DOG, CAT])
    found, drawn = {}, []
    for layer in LAYERS[1:]:
        group = neuron_groups(given.model, layer, given.images, GROUPS)
        effects = [group.effects(attribution(given.model, layer, given.images, c))[0] for c in targets]
        found[layer] = {
            "error": group.error,
            "groups": [
                {"for_dog": float(d), "for_cat": float(c), **shares(where)}
                for d, c, where in zip(*effects, group.places[0])
            ],
        }
        drawn.append((layer, group, effects))
    work.picture("task3-groups.jpg", draw_groups(given.images[0], drawn))
    return {"layers": found}


def draw_groups(image: "Tensor", layers: "list[tuple[str, NeuronGroups, list[Tensor]]]") -> "Figure":
    """A row a layer, a column a group: the photo where the group fires, and its effects."""
    from matplotlib.figure import Figure

    from interpretability.drawing import enlarged, show_image

    figure = Figure(figsize=(2.05 * GROUPS, 2.5 * len(layers) + 0.3), dpi=110, layout="constrained")
    grid = figure.subplots(len(layers), GROUPS)
    for axes_row, (layer, group, effects) in zip(grid, layers):
        for index, axes in enumerate(axes_row):
            light = enlarged(group.places[0, index], image.shape[1:])
            light = (light / light.max()).clamp(0, 1).sqrt()
            show_image(axes, image * (0.15 + 0.85 * light))
            dog, cat = (float(effect[index]) for effect in effects)
            axes.set_title(f"dog {dog:+.2f}, cat {cat:+.2f}".replace("-", "−"), fontsize=10)
        axes_row[0].set_ylabel(layer, fontsize=11)
    figure.suptitle(f"Bright: where a group fires. Above: its effect on the logits of {DOG} (dog) and {CAT} (cat)")
    return figure


def covering(work: Workspace) -> dict[str, Any]:
    """The prediction with the dog, the cat, or everything else covered in the photo's mean colour; and other photos."""
    import torch

    given = work.photographed("dog_cat", "china", "flower")
    photo = given.images[0]
    dog, cat = given.targets([DOG, CAT])
    mean = photo.mean((1, 2), keepdim=True)
    inside = regions(photo.shape[-1])
    covered = {"nothing": photo, **{name: torch.where(where, mean, photo) for name, where in inside.items()}}
    covered["everything_but_dog"] = torch.where(inside["dog"], photo, mean)
    covered["everything_but_cat"] = torch.where(inside["cat"], photo, mean)
    found: dict[str, Any] = {"seen": {}}
    for name, image in covered.items():
        p = given.logits(image[None])[0].softmax(0)
        best = int(p.argmax())
        found["seen"][name] = {
            "top": given.label(best),
            "probability": float(p[best]),
            "dog": float(p[dog]),
            "cat": float(p[cat]),
            "any_dog": float(p[151:269].sum()),  # ImageNet's 118 breeds
        }
    for name, logits in zip(given.names, given.logits(given.images)):
        best = logits.softmax(0).topk(5)
        found[name] = [{"name": given.label(int(i)), "p": float(p)} for p, i in zip(best.values, best.indices)]
    return found
