"""What would have to be different in an image for the model to see something else, as a picture."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import console
from explaining import inputs, output

if TYPE_CHECKING:
    from torch import Tensor

INK_NOISE, SCENE_NOISE = 0.25, 0.1
ROWS = 6  # images to a figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    inputs.add_arguments(parser)
    group = parser.add_argument_group("counterfactual")
    group.add_argument("--target", help="class to be seen, by index or name (default: the second likeliest)")
    group.add_argument("--epsilon", type=float, help="largest change in L2 (default: 0.35 a pixel in the mean square)")
    group.add_argument("--steps", type=int, default=60, help="in which the change grows")
    group.add_argument("--confidence", type=float, default=0.95, help="the class's probability at which it is done")
    group.add_argument("--noise", type=float, help="in the copies that it is to hold for (default: 0.1; digits 0.25)")
    group.add_argument("--smoothness", type=float, default=0.1, help="weight of the total variation")
    group.add_argument("--seed", type=int, default=0, help="of the copies")
    group.add_argument("--output", type=Path, default=Path("runs/counterfactual"), help="folder for figures and images")


def run(args: argparse.Namespace) -> None:
    """Look for the changes, draw and write them, and say how large they are."""
    import torch
    from tqdm import tqdm

    from interpretability.adversarial import counterfactual
    from interpretability.adversarial.figures import draw_counterfactuals
    from interpretability.drawing import save_figure

    given = inputs.load(args)
    images = given.images
    logits = given.logits(images)
    if logits.shape[1] < 2:
        raise console.UserError(f"a counterfactual needs a second class; {args.model} has one output")
    targets = logits.topk(2).indices[:, 1] if args.target is None else None
    if targets is None:
        targets = torch.tensor(given.targets([args.target])).expand(len(images))
    noise = args.noise if args.noise is not None else INK_NOISE if images.shape[1] == 1 else SCENE_NOISE
    options = {name: getattr(args, name) for name in ("epsilon", "steps", "confidence", "smoothness", "seed")}
    pairs = tqdm(list(zip(images, targets)), desc="counterfactual", unit="image", disable=None)
    found = torch.cat([counterfactual(given.model, x[None], t[None], noise=noise, **options) for x, t in pairs])
    found = (found * 255).round() / 255
    before, after = _titles(given, images), _titles(given, found)
    for first in range(0, len(images), ROWS):
        part = slice(first, first + ROWS)
        names = given.names[part]
        stem = names[0] if len(names) == 1 else f"{names[0]}-and-{len(names) - 1}-more"
        figure = draw_counterfactuals(images[part], found[part], before[part], after[part])
        print(save_figure(figure, args.output / f"{stem}.png"))
    for n, name in enumerate(given.names):
        print(output.write_pixels(args.output / f"{name}-counterfactual.png", found[n]))
        wanted = given.label(int(targets[n]))
        missed = "" if after[n].partition("\n")[0] == console.shorten(wanted, 24) else f"; {wanted} was not reached"
        change = float((found[n] - images[n]).norm())
        print(f"{name}: {_line(before[n])} -> {_line(after[n])}, L2 {change:.3g}{missed}")


def _titles(given: inputs.Inputs, images: "Tensor") -> list[str]:
    best = given.logits(images).softmax(1).max(1)
    return [f"{console.shorten(given.label(int(i)), 24)}\n{float(p):.1%}" for p, i in zip(best.values, best.indices)]


def _line(title: str) -> str:
    return title.replace("\n", " ")
