"""Images that maximise classes, channels or neurons of a model: what it has learned to see."""

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import console
from explaining import inputs, output, recipes

if TYPE_CHECKING:
    from torch import Tensor

    from interpretability.visualization import Objective

FEW_CLASSES = 20  # a model with no more shows all of them when none is named
FIRST_CHANNELS = 12
IMAGES_AT_ONCE, IMAGES_AT_ONCE_OF_A_GPU = 16, 250
FRESH_VIEWS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    inputs.add_model_arguments(parser.add_argument_group("model"))
    what = parser.add_argument_group("what to visualise")
    what.add_argument("--class", dest="targets", action="append", help="class index or name; may be repeated")
    what.add_argument("--layer", help="a dotted module name, whose channels to show")
    what.add_argument("--channel", type=int, action="append", help="of --layer; may be repeated (default: the first)")
    what.add_argument("--neuron", action="store_true", help="the unit at the centre instead of the whole channel")
    what.add_argument("--images", type=int, default=1, help="images of each")
    what.add_argument("--diversity", type=float, default=0.0, help="how strongly these are to differ; needs --layer")
    how = parser.add_argument_group("how")
    how.add_argument("--steps", type=int, default=256, help="steps of gradient ascent")
    how.add_argument("--parameterization", default="fourier", help="fourier or pixel")
    for name in recipes.PENALTIES:
        option = f"--{name.replace('_', '-')}"
        how.add_argument(option, type=float, help="weight of this penalty (default: what suits the model's images)")
    how.add_argument("--seed", type=int, default=0, help="of the first noise and the random views")
    how.add_argument("--ablation", action="store_true", help="a column for each regulariser alone, and for all")
    how.add_argument("--output", type=Path, default=Path("runs/features"), help="folder for figures and arrays")


def run(args: argparse.Namespace) -> None:
    """Choose objectives, ascend, draw, write."""
    from interpretability.drawing import save_figure
    from interpretability.visualization.figures import draw_features

    given = load(args)
    labels, objectives = choose(args, given)
    ink = given.images.shape[1] == 1
    if args.ablation:
        columns = recipes.ablation(ink)
        images = _joined(visualise(args, given, objectives, recipe, 1) for recipe in columns.values())
        by_class = images.unflatten(0, (len(columns), len(labels))).transpose(0, 1).flatten(0, 1)
        figure = draw_features(by_class, list(columns), labels)
    else:
        weights = recipes.default_weights(ink)
        weights |= {name: value for name in weights if (value := getattr(args, name)) is not None}
        recipe = recipes.Recipe(ink, args.parameterization, weights=weights)
        images = visualise(args, given, objectives, recipe, args.images)
        titles = [label for label in labels for _ in range(args.images)]
        figure = draw_features(images, titles)
        if args.targets or not args.layer:
            print_recognised(given, images, titles)
    stem = args.output / ("ablation" if args.ablation else args.layer or "classes")
    print(save_figure(figure, Path(f"{stem}.png")))
    print(output.write_arrays(Path(f"{stem}.npz"), images=images.numpy(), labels=labels))


def load(args: argparse.Namespace) -> inputs.Inputs:
    """The model, with a grey image of the shape of what to make in place of photos."""
    import torch

    for option in ("steps", "images"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise console.UserError(f"--{option} must be at least 1; got {value}")
    for option in (*recipes.PENALTIES, "diversity"):
        if not math.isfinite(getattr(args, option) or 0.0):
            raise console.UserError(f"--{option.replace('_', '-')} must be a finite number")
    loaded = inputs.load_named(args)
    return inputs.Inputs(loaded.model, torch.full((1, *loaded.input_shape), 0.5), ["grey"], loaded.class_names)


def choose(args: argparse.Namespace, given: inputs.Inputs) -> tuple[list[str], list["Objective"]]:
    """What to maximise, and what to call it."""
    from interpretability.building_blocks import activation_maps
    from interpretability.visualization import channel, diversity, logit, neuron, odds

    if args.layer is None:
        if args.channel or args.neuron or args.diversity:
            raise console.UserError("--channel, --neuron and --diversity are about a layer: name it with --layer")
        names = args.targets or _all_classes(given)
        of_class = odds if given.images.shape[1] == 1 else logit
        indices = given.targets(names)
        return [given.label(index) for index in indices], [of_class(index) for index in indices]
    if args.targets:
        indices = given.targets(args.targets)
        objectives, labels = [logit(index) for index in indices], [given.label(index) for index in indices]
    else:
        here = activation_maps(given.model, args.layer, given.images, args.maps).shape[1]
        indices = args.channel or list(range(min(here, FIRST_CHANNELS)))
        objectives = [(neuron if args.neuron else channel)(args.layer, index, maps=args.maps) for index in indices]
        labels = [f"{args.layer}:{index}" for index in indices]
    if args.diversity:
        objectives = [one + args.diversity * diversity(args.layer, args.maps) for one in objectives]
    return labels, objectives


def visualise(
    args: argparse.Namespace,
    given: inputs.Inputs,
    objectives: Sequence["Objective"],
    recipe: recipes.Recipe,
    each: int,
) -> "Tensor":
    """``each`` images of every objective (M·each, C, H, W), a handful of objectives at a time."""
    import torch

    from interpretability.devices import device_of
    from interpretability.visualization import visualize

    channels, height, width = given.images.shape[1:]
    margin = recipe.margin(height)
    inner = (height - 2 * margin.pixels, width - 2 * margin.pixels)
    on_cpu = device_of(given.model) in (None, torch.device("cpu"))
    at_once = max(1, (IMAGES_AT_ONCE if on_cpu else IMAGES_AT_ONCE_OF_A_GPU) // each)
    images = _joined(
        visualize(
            given.model,
            objectives[first : first + at_once],
            (each, channels, *inner),
            steps=args.steps,
            parameterization=recipe.parameterization,
            transforms=recipe.transforms(height, width),
            regularizers=recipe.regularizers(),
            seed=args.seed,
            progress=True,
        )
        for first in range(0, len(objectives), at_once)
    )
    return margin(images)


def print_recognised(given: inputs.Inputs, images: "Tensor", titles: Sequence[str]) -> None:
    """What the model takes each image for, and how often it still does in views that the ascent did not see."""
    import torch

    from interpretability.visualization import RandomAffine

    afresh, generator = RandomAffine(images.shape[-1] / 16, (0.9, 1.1), 10.0), torch.Generator().manual_seed(12345)
    seen = torch.stack([given.logits(afresh(images, generator)).argmax(1) for _ in range(FRESH_VIEWS)])
    for title, row, views in zip(titles, given.logits(images).softmax(1), seen.T):
        same = sum(given.label(int(index)) == title for index in views)
        best = given.label(int(row.argmax()))
        print(f"{title:24s} seen as {best} {float(row.max()):.1%}; as {title} in {same} of {FRESH_VIEWS} fresh views")


def _all_classes(given: inputs.Inputs) -> list[str]:
    if given.outputs > FEW_CLASSES:
        raise console.UserError(f"which of {given.outputs} classes? name some with --class, or a layer with --layer")
    return [str(index) for index in range(given.outputs)]


def _joined(parts: Iterable["Tensor"]) -> "Tensor":
    import torch

    return torch.cat([part.cpu() for part in parts])
