"""How far explanations of a model can be trusted: methods by measures, with intervals, a table and two pictures."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import console
from explaining import inputs

if TYPE_CHECKING:
    from torch import Tensor

    from interpretability.evaluation import Explainer

DEFAULT_METHODS = (
    "Saliency",
    "InputXGradient",
    "IntegratedGradients",
    "SmoothGrad",
    "GuidedBackprop",
    "GradCAM",
    "Occlusion",
    "LRP epsilon",
    "LRP epsilon_gamma",
    "LRP z_plus",
    "DeepLift",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    inputs.add_arguments(parser)
    group = parser.add_argument_group("evaluation")
    group.add_argument("--method", action="append", help=f"may be repeated (default: {', '.join(DEFAULT_METHODS)})")
    group.add_argument("--target", help="class index or name for all images (default: what each is predicted to be)")
    group.add_argument("--layer", help="of class activation maps (default: the last with a spatial extent)")
    group.add_argument("--baseline", type=float, default=0.0, help="what a deleted pixel becomes, in [0, 1]")
    group.add_argument("--n-steps", type=int, default=20, help="steps of the deletion and insertion curves")
    group.add_argument("--n-squares", type=int, default=64, help="squares covered for the infidelity")
    group.add_argument("--n-noises", type=int, default=4, help="noisy copies for the max-sensitivity")
    group.add_argument("--radius", type=float, default=0.02, help="of that noise, in pixel units")
    group.add_argument("--n-stages", type=int, default=6, help="stages in which the network is randomised")
    group.add_argument("--segments", type=int, metavar="N", help="superpixels as players (default: 8 x 8 patches)")
    mask = "where the object is: a black and white image, or left,top,right,bottom"
    group.add_argument("--mask", metavar="FILE|BOX", help=mask)
    group.add_argument("--seed", type=int, default=0, help="of everything random")
    group.add_argument("--output", type=Path, default=Path("runs/evaluation"), help="folder for table and pictures")


def run(args: argparse.Namespace) -> None:
    """Measure every method, print the table, write it and the pictures."""
    from interpretability.drawing import save_figure
    from interpretability.evaluation import (
        RANDOM,
        Settings,
        agreement_figure,
        evaluate,
        measures_figure,
        randomization_figure,
        ranking,
        ranking_table,
        table,
        verdict,
        write_csv,
    )
    from interpretability.loading import checkpoint_of

    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    given = inputs.load(args)
    target = None if args.target is None else given.targets([args.target])[0]
    rows = chosen(args, given)
    mask = None if args.mask is None else read_mask(args.mask, given.images.shape[2:])
    found = evaluate(given.model, rows, given.images, target, settings, mask)
    print(table(found))
    ranked = ranking(found, args.seed)
    print(f"\n{ranking_table(ranked)}\n\n{verdict(ranked)}\n")
    args.output.mkdir(parents=True, exist_ok=True)
    write_csv(found, args.output / "evaluation.csv")
    called = args.model if checkpoint_of(args.model) is None else type(given.model.model).__name__
    title = f"{called}, {len(given.images)} image{'s' * (len(given.images) > 1)}"
    image = given.images[0].permute(1, 2, 0).squeeze(-1).numpy()
    pictures = {
        "measures": measures_figure(found, title, RANDOM),
        "agreement": agreement_figure(found, f"{title}: rank correlation of the maps"),
        "randomization": randomization_figure(found, image, f"{title}: layers randomised from the output down"),
    }
    print(args.output / "evaluation.csv")
    for name, figure in pictures.items():
        print(save_figure(figure, args.output / f"{name}.png"))


def read_mask(text: str, size: "Sequence[int]") -> "Tensor":
    """A mask (H, W) of a box of pixels, or of an image file, white inside, scaled to the images."""
    import numpy as np
    import torch
    from PIL import Image, UnidentifiedImageError

    height, width = size
    mask = torch.zeros(height, width, dtype=torch.bool)
    numbers = text.split(",")
    if len(numbers) == 4 and all(number.strip().isdecimal() for number in numbers):
        left, top, right, bottom = map(int, numbers)
        mask[top:bottom, left:right] = True
    else:
        try:
            with Image.open(text) as image:
                mask = torch.from_numpy(np.asarray(image.convert("L").resize((width, height))) > 127)
        except (OSError, UnidentifiedImageError):
            raise console.UserError(f"--mask {text}: neither an image file nor left,top,right,bottom") from None
    if not mask.any() or mask.all():
        raise console.UserError(f"--mask {text}: holds none or all of the {height} x {width} pixels")
    return mask


def chosen(args: argparse.Namespace, given: inputs.Inputs) -> "list[Explainer]":
    """The rows of the table. Of the default ones, those that the model allows, and a line about the others."""
    from interpretability.evaluation import RANDOM, explainers

    side = max(given.images.shape[2:])
    layer = args.layer or next(iter(inputs.spatial_layers(given.model, given.images[:1], 1, args.maps)), None)
    rows = []
    for name in [*(args.method or DEFAULT_METHODS), RANDOM]:
        try:
            (row,) = explainers(given.model, [name], side, layer, args.baseline, args.seed, args.maps, args.segments)
            row.explain(given.images[:1], None)
        except ValueError as error:
            if args.method:
                raise
            print(f"left out: {name}: {console.shorten(str(error), 120)}")
        else:
            rows.append(row)
    return rows
