"""Attribution maps of images, at the input and at layers, as figures and raw arrays."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import console
from explaining import inputs
from explaining.output import write_arrays

if TYPE_CHECKING:
    from torch import Tensor

    from interpretability.maps import Maps

DEFAULT_METHODS = ("Saliency", "InputXGradient", "GradCAM")
INPUT = "input"
COLUMNS = 6
LAYERS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    inputs.add_arguments(parser)
    group = parser.add_argument_group("maps")
    group.add_argument("--method", action="append", help=f"may be repeated (default: {', '.join(DEFAULT_METHODS)})")
    layers = f"a dotted module name, or {INPUT!r}; may be repeated (default: the input and {LAYERS} layers)"
    group.add_argument("--layer", action="append", help=layers)
    group.add_argument("--target", action="append", help="class index or name; may be repeated (default: predicted)")
    group.add_argument("--segments", type=int, metavar="N", help="superpixels as players (default: 8 x 8 patches)")
    group.add_argument("--output", type=Path, default=Path("runs/saliency"), help="folder for figures and arrays")


def run(args: argparse.Namespace) -> None:
    """Predict, attribute, draw, write."""
    from interpretability.attribution import METHODS
    from interpretability.attribution.settings import draws_the_input_only
    from interpretability.layers import find_layer

    methods = args.method or DEFAULT_METHODS
    for name in methods:
        if name not in METHODS:
            raise console.nearest(name, METHODS, "method")
    given = inputs.load(args)
    layers = args.layer or [INPUT, *inputs.spatial_layers(given.model, given.images[:1], LAYERS, args.maps)]
    for name in args.method or ():
        if METHODS[name].needs_layer and set(layers) == {INPUT}:
            raise console.UserError(f"{name} explains a layer, not the input: name one with --layer")
        if draws_the_input_only(METHODS[name]) and INPUT not in layers:
            raise console.UserError(f"{name} explains the input, not a layer: name it with --layer {INPUT}")
    for name in layers:
        if name != INPUT:
            find_layer(given.model, name)
    logits = given.logits(given.images)
    targets = given.targets(args.target or ())
    columns = [(n, c) for n in range(len(given.images)) for c in targets or [int(logits[n].argmax())]]
    titles = [title(given, n, c, float(logits[n].softmax(dim=0)[c])) for n, c in columns]
    per_image = max(1, len(targets))
    step = max(1, COLUMNS // per_image) * per_image
    for start in range(0, len(columns), step):
        part = slice(start, start + step)
        more = len({n for n, _ in columns[part]}) - 1
        stem = given.names[columns[start][0]] + (f"-and-{more}-more" if more else "")
        for name in methods:
            found = attribute(given, name, layers, columns[part], args.maps, args.segments)
            if found:
                write(args.output / f"{stem}-{name}", given, columns[part], titles[part], found)
    print_predictions(given, logits)


def attribute(
    given: inputs.Inputs,
    name: str,
    layers: Sequence[str],
    columns: Sequence[tuple[int, int]],
    maps: "Maps" = None,
    segments: int | None = None,
) -> dict[str, tuple["Tensor", "Tensor"]]:
    """Raw attributions (M, …) by the method ``name`` and the maps (M, h, w) to draw, for each layer.

    ``columns`` says of which images, for which classes.
    """
    import torch

    from interpretability.attribution import METHODS
    from interpretability.attribution.settings import as_pictured, draws_the_input_only, picture_options
    from interpretability.drawing import flat_map

    images = given.images[[n for n, _ in columns]]
    targets = torch.tensor([c for _, c in columns])
    found = {}
    for layer in layers:
        if METHODS[name].needs_layer if layer == INPUT else draws_the_input_only(METHODS[name]):
            continue
        options = picture_options(METHODS[name], maps, segments)
        method = METHODS[name](given.model, None if layer == INPUT else layer, **options)
        values = method(images, targets)
        found[layer] = values, flat_map(as_pictured(method, images, values, maps), method.additive)
    return found


def title(given: inputs.Inputs, image: int, index: int, probability: float) -> str:
    """What stands over a column: the image's name, the class explained and its probability."""
    return f"{console.shorten(given.names[image], 26)}\n{console.shorten(given.label(index), 20)} {probability:.1%}"


def write(
    path: Path,
    given: inputs.Inputs,
    columns: Sequence[tuple[int, int]],
    titles: Sequence[str],
    found: dict[str, tuple["Tensor", "Tensor"]],
) -> None:
    """``path``.png, the figure, and ``path``.npz, the raw arrays by layer with images, names and classes."""
    import numpy as np

    from interpretability.drawing import draw_maps, save_figure

    name = path.name.rsplit("-", 1)[-1]
    rows = {f"{name}\n{layer}": drawn for layer, (_, drawn) in found.items()}
    images = given.images[[n for n, _ in columns]]
    print(save_figure(draw_maps(images, rows, titles), Path(f"{path}.png")))
    arrays = {layer: values.numpy() for layer, (values, _) in found.items()}
    about = {
        "images": images.numpy(),
        "names": np.array([given.names[n] for n, _ in columns]),
        "targets": np.array([c for _, c in columns]),
    }
    print(write_arrays(Path(f"{path}.npz"), **about, **arrays))


def print_predictions(given: inputs.Inputs, logits: "Tensor") -> None:
    """The five most probable classes of each image."""
    for name, row in zip(given.names, logits.softmax(dim=1)):
        best = row.topk(min(5, len(row)))
        print(name)
        for probability, index in zip(best.values.tolist(), best.indices.tolist()):
            print(f"  {probability:6.1%}  {index:4d}  {given.label(index)}")
