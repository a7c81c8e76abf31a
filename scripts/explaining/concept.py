"""Whether a concept speaks for a class: a loop or a slant in digits, or what the photos of a folder have in common."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import console
from explaining import inputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MADE = ("loop", "slant")
PER_SET = 30  # made images to a set
MOST_CLASSES = 20
ALPHA = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    inputs.add_arguments(parser)
    parser.set_defaults(samples=200)
    group = parser.add_argument_group("concept")
    group.add_argument("--concept", default="loop", help=f"{', '.join(MADE)} (of digits), or a folder of images")
    group.add_argument("--random", type=Path, metavar="FOLDER", help="other images, with a folder as --concept")
    group.add_argument("--layer", help="dotted module name (default: the last with a spatial extent)")
    group.add_argument("--target", help="class, by index or name (default: every class of the images)")
    group.add_argument("--sets", type=int, default=10, help="sets of other images, for the test")
    group.add_argument("--seed", type=int, default=0, help="of what is made or drawn at random")


def run(args: argparse.Namespace) -> None:
    """Test the concept for each class and print the table."""
    from interpretability.concepts import concept_test

    given = inputs.load(args)
    if args.sets < 3:
        raise console.UserError(f"--sets must be at least 3; got {args.sets}")
    layer = args.layer or (inputs.spatial_layers(given.model, given.images[:1], 1, args.maps) or [None])[-1]
    if layer is None:
        raise console.UserError(f"{args.model} has no layer with places: name one with --layer")
    positives, negatives = concept_images(args, given)
    print(f"{args.concept} in {layer}: the share of each class's images that it speaks for")
    print(f"{'class':<24} {'images':>6} {'concept':>8} {'random':>8} {'p':>8}")
    for k, images in by_class(args, given).items():
        found = concept_test(given.model, layer, images, k, positives, negatives)
        verdict = "no more than chance"
        if found.p_value < ALPHA:
            verdict = "speaks for it" if found.score > found.random else "speaks against it"
        name = console.shorten(given.label(k), 24)
        print(f"{name:<24} {len(images):>6} {found.score:>8.2f} {found.random:>8.2f} {found.p_value:>8.1e}  {verdict}")


def by_class(args: argparse.Namespace, given: inputs.Inputs) -> "dict[int, Tensor]":
    """Class -> its images, by their labels or else by what they are taken for."""
    classes = given.labels if given.labels is not None else given.logits(given.images).argmax(1)
    if args.target is None:
        return {int(k): given.images[classes == k] for k in classes.unique()[:MOST_CLASSES]}
    target = given.targets([args.target])[0]
    of_it = given.images[classes == target]
    return {target: of_it if len(of_it) else given.images}


def concept_images(args: argparse.Namespace, given: inputs.Inputs) -> "tuple[Tensor, list[Tensor]]":
    """Images that have the concept, and sets of others."""
    import torch

    generator = torch.Generator().manual_seed(args.seed)
    if args.concept in MADE:
        if given.images.shape[1] != 1:
            raise console.UserError(f"--concept {args.concept} is made for digits; give a folder for other images")
        positives, others = made(args.concept, given.images, args.sets * PER_SET, generator)
    else:
        folder = Path(args.concept)
        if not folder.is_dir():
            raise console.UserError(f"--concept: there is no folder {folder}, and what is made is {', '.join(MADE)}")
        if args.random is None:
            raise console.UserError("--concept FOLDER needs other images: give --random FOLDER")
        read = inputs.load_named(args).read
        positives, others = (inputs.stacked([path], read)[0] for path in (folder, args.random))
        positives, others = (x[torch.randperm(len(x), generator=generator)] for x in (positives, others))
    for name, x in (("concept", positives), ("random", others)):
        if len(x) < args.sets:
            raise console.UserError(f"--{name}: {len(x)} images do not fill {args.sets} sets; give fewer --sets")
    return positives, list(others.tensor_split(args.sets))


def made(concept: str, samples: "Tensor", count: int, generator: "torch.Generator") -> "tuple[Tensor, Tensor]":
    """``count`` images with the concept and ``count`` without: strokes closed or open, samples slanted or not."""
    import torch
    from torch.nn import functional as F

    if concept == "loop":
        strokes = [stroke(samples.shape[2:], closed, generator) for closed in (True, False) for _ in range(count)]
        drawn = torch.stack(strokes)[:, None].to(samples)
        return drawn[:count], drawn[count:]
    chosen = samples[torch.randint(len(samples), (2 * count,), generator=generator)]
    shear = 0.2 + 0.4 * torch.rand(count, generator=generator)
    matrices = torch.eye(2, 3).repeat(count, 1, 1)
    matrices[:, 0, 1] = shear
    grid = F.affine_grid(matrices, list(chosen[:count].shape), align_corners=False)
    return F.grid_sample(chosen[:count], grid.to(chosen), align_corners=False), chosen[count:]


def stroke(size: "torch.Size", closed: bool, generator: "torch.Generator") -> "Tensor":
    """An ellipse (H, W) in white on black somewhere in the middle, whole or a half of it."""
    import torch

    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    draw = torch.rand(6, generator=generator)
    a, b = 0.25 + 0.3 * draw[:2]
    dx, dy = x - 0.5 * (draw[2] - 0.5), y - 0.8 * (draw[3] - 0.5)
    away = ((dx / a).square() + (dy / b).square()).sqrt() - 1
    ink = (1.3 - (away * torch.minimum(a, b)).abs() / (0.08 + 0.06 * draw[4])).clamp(0, 1)
    angle = 2 * torch.pi * draw[5]
    return ink if closed else ink * ((dx / a) * angle.cos() + (dy / b) * angle.sin() > 0)
