"""Attribution maps of images, at the input and at layers, as figures and raw arrays."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

import console
from explaining import inputs

if TYPE_CHECKING:
    from torch import Tensor

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
    group.add_argument("--output", type=Path, default=Path("runs/saliency"), help="folder for figures and arrays")


def run(args: argparse.Namespace) -> None:
    """Predict, attribute, draw, write."""
    from interpretability.attribution import METHODS
    from interpretability.layers import find_layer

    methods = args.method or DEFAULT_METHODS
    for name in methods:
        if name not in METHODS:
            raise console.nearest(name, METHODS, "method")
    given = inputs.load(args)
    layers = args.layer or [INPUT, *inputs.spatial_layers(given.model, given.images[:1], LAYERS)]
    for name in layers:
        if name != INPUT:
            find_layer(given.model, name)
    logits = given.logits(given.images)
    targets = given.targets(args.target or ())
    columns = [(n, c) for n in range(len(given.images)) for c in targets or [int(logits[n].argmax())]]
    step = max(1, COLUMNS // max(1, len(targets))) * max(1, len(targets))
    for number, start in enumerate(range(0, len(columns), step)):
        part = columns[start : start + step]
        maps = attribute(given, [(name, layer) for name in methods for layer in layers], part)
        stem = given.names[part[0][0]] if len(part) == len(targets) or len(columns) == 1 else f"{args.data}-{number}"
        write(args.output / stem, given, part, maps)
    print_predictions(given, logits)


def attribute(
    given: inputs.Inputs, explained: list[tuple[str, str]], columns: list[tuple[int, int]]
) -> dict[str, "Tensor"]:
    """Raw attributions, "method at layer" -> (M, …), of each (image, class) in ``columns``."""
    import torch

    from interpretability.attribution import METHODS
    from interpretability.attribution.cam import ActivationMap

    images = given.images[[n for n, _ in columns]]
    targets = torch.tensor([c for _, c in columns])
    attributions = {}
    for name, layer in explained:
        if layer == INPUT and issubclass(METHODS[name], ActivationMap):
            continue
        method = METHODS[name](given.model, None if layer == INPUT else layer)
        attributions[f"{name} at {layer}"] = method(images, targets)
    return attributions


def write(path: Path, given: inputs.Inputs, columns: list[tuple[int, int]], attributions: dict[str, "Tensor"]) -> None:
    """``path``.png, the figure, and ``path``.npz, the raw arrays with images, names and classes."""
    import numpy as np

    from interpretability.attribution import METHODS
    from interpretability.drawing import draw_maps, flat_map, save_figure

    rows = {
        label.replace(" at ", "\n"): flat_map(values, METHODS[label.split()[0]].additive)
        for label, values in attributions.items()
    }
    titles = [f"{console.shorten(given.names[n], 26)}\n{console.shorten(given.label(c), 26)}" for n, c in columns]
    images = given.images[[n for n, _ in columns]]
    print(save_figure(draw_maps(images, rows, titles), path.with_name(path.name + ".png")))
    arrays = {label: values.numpy() for label, values in attributions.items()}
    arrays |= {"images": images.numpy(), "names": np.array([given.names[n] for n, _ in columns])}
    arrays["targets"] = np.array([c for _, c in columns])
    archive = path.with_name(path.name + ".npz")
    temporary = archive.with_name(f".{archive.name}")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(temporary, archive)
    print(archive)


def print_predictions(given: inputs.Inputs, logits: "Tensor") -> None:
    """The five most probable classes of each image."""
    for name, row in zip(given.names, logits.softmax(dim=1)):
        best = row.topk(min(5, len(row)))
        print(name)
        for probability, index in zip(best.values.tolist(), best.indices.tolist()):
            print(f"  {probability:6.1%}  {index:4d}  {given.label(index)}")
