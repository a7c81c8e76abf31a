"""Adversarial images: small changes that make a model see something else, and how visible they are."""

import argparse
import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import console
from explaining import inputs, output

if TYPE_CHECKING:
    from torch import Tensor

    from interpretability.maps import Maps

ATTACKS = ("pgd", "fgsm", "deepfool")
NORMS = ("linf", "l2")
ROWS = 6  # images to a figure
PIXEL_STEP = 1 / 255
# ε that suffice, by norm, for photos and for digits
SCENE_EPSILON = {"linf": 2 / 255, "l2": 1.0}
INK_EPSILON = {"linf": 0.2, "l2": 2.5}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    inputs.add_arguments(parser)
    group = parser.add_argument_group("attack")
    group.add_argument("--target", help="class to be seen, by index or name (default: any but the one seen now)")
    group.add_argument("--attack", choices=ATTACKS, default="pgd", help="how to look for the change")
    group.add_argument("--norm", choices=NORMS, default="linf", help="how pgd measures the change")
    group.add_argument("--epsilon", type=number, help="largest change in pixel units, such as 0.1 or 2/255")
    group.add_argument("--steps", type=int, default=40, help="steps of pgd and deepfool")
    group.add_argument("--method", default="Saliency", help="attribution that explains the predictions; none: 'none'")
    curve = "instead, accuracy of all samples under attack for these ε (comma-separated)"
    group.add_argument("--curve", type=lambda text: [number(part) for part in text.split(",")], help=curve)
    group.add_argument("--output", type=Path, default=Path("runs/attack"), help="folder for figures, images, arrays")


def number(text: str) -> float:
    """A decimal number or a fraction, from 0 on."""
    try:
        above, _, below = text.partition("/")
        value = float(Fraction(above.strip()) / Fraction(below.strip() or 1))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a fraction like 2/255") from None
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number from 0 on")
    return value


def run(args: argparse.Namespace) -> None:
    """Attack, measure, draw, write."""
    from interpretability.attribution import METHODS

    if args.method not in [*METHODS, "none"]:
        raise console.nearest(args.method, [*METHODS, "none"], "method")
    if args.steps < 1:
        raise console.UserError(f"--steps must be at least 1; got {args.steps}")
    if args.attack == "fgsm" and args.norm != "linf" and not args.curve:
        raise console.UserError(f"--attack fgsm measures the change in linf; --norm {args.norm} goes with pgd")
    if args.attack == "deepfool" and args.epsilon is not None:
        raise console.UserError("--epsilon goes with pgd and fgsm; deepfool looks for the smallest change itself")
    given = inputs.load(args)
    if args.curve:
        robustness(args, given)
        return
    if args.epsilon is None:
        args.epsilon = (INK_EPSILON if given.images.shape[1] == 1 else SCENE_EPSILON)[args.norm]
    wanted = None if args.target is None else given.targets([args.target])[0]
    predicted = given.logits(given.images).argmax(1)
    tell_beforehand(args, given, predicted, wanted)
    for first in range(0, len(given.images), ROWS):
        attack_some(args, given, slice(first, first + ROWS), predicted, wanted)


def tell_beforehand(args: argparse.Namespace, given: inputs.Inputs, predicted: "Tensor", wanted: int | None) -> None:
    """A line for whatever makes an attack pointless."""
    if args.attack != "deepfool" and args.epsilon < PIXEL_STEP:
        print(f"note: ε = {args.epsilon:.4g} is below an 8-bit pixel's step of 1/255: nothing of it outlives rounding")
    for n, name in enumerate(given.names):
        if given.labels is not None and predicted[n] != given.labels[n]:
            print(f"note: {name} is misclassified as {given.label(int(predicted[n]))} to begin with")
        if wanted is not None and int(predicted[n]) == wanted:
            print(f"note: {name} is seen as {given.label(wanted)} to begin with")


def attack_some(
    args: argparse.Namespace, given: inputs.Inputs, part: slice, predicted: "Tensor", wanted: int | None
) -> None:
    """Attack the images of ``part``; write the figure, the 8-bit images and the arrays, and print what came of it."""
    from interpretability.adversarial import quantize
    from interpretability.adversarial.figures import draw_attacks
    from interpretability.drawing import save_figure

    images, names = given.images[part], given.names[part]
    found = perturb(args, given, images, predicted[part] if wanted is None else wanted, wanted is not None)
    reach = (found - images).abs().max().item() + PIXEL_STEP if args.attack == "deepfool" else args.epsilon
    rounded = quantize(found, images, reach, "linf" if args.attack != "pgd" else args.norm)
    maps = None if args.method == "none" else explain(given, args.method, images, rounded, args.maps)
    before, after = titles(given, images), titles(given, rounded)
    figure = draw_attacks(images, rounded, before, after, maps, args.method)
    stem = args.output / (names[0] if len(names) == 1 else f"{names[0]}-and-{len(names) - 1}-more")
    print(save_figure(figure, Path(f"{stem}.png")))
    print(output.write_arrays(Path(f"{stem}.npz"), images=images.numpy(), adversarial=found.numpy(), names=names))
    for name, image in zip(names, rounded):
        print(output.write_pixels(args.output / f"{name}-adversarial.png", image))
    report(given, images, found, rounded, names)


def perturb(
    args: argparse.Namespace, given: inputs.Inputs, images: "Tensor", target: "Tensor | int", targeted: bool
) -> "Tensor":
    """The adversarial images, not rounded."""
    import torch
    from tqdm import tqdm

    from interpretability.adversarial import deepfool, fgsm, pgd

    targets = torch.as_tensor(target).expand(len(images))
    found = []
    for image, label in tqdm(list(zip(images, targets)), desc=args.attack, unit="image"):
        x, t = image[None], label[None]
        if args.attack == "deepfool":
            found.append(deepfool(given.model, x, t if targeted else None, steps=args.steps))
        elif args.attack == "fgsm":
            found.append(fgsm(given.model, x, t, args.epsilon, targeted=targeted))
        else:
            options = {"steps": args.steps, "norm": args.norm, "targeted": targeted}
            found.append(pgd(given.model, x, t, args.epsilon, **options))
    return torch.cat(found)


def explain(given: inputs.Inputs, name: str, images: "Tensor", adversarial: "Tensor", maps: "Maps" = None) -> "Tensor":
    """Maps (N, 2, h, w) of what speaks for the predicted class before and after."""
    import torch

    from interpretability.attribution import METHODS
    from interpretability.attribution.settings import picture_options
    from interpretability.drawing import flat_map

    options = picture_options(METHODS[name], maps)
    if METHODS[name].needs_layer:
        options |= {"layer": (inputs.spatial_layers(given.model, images[:1], 1, maps) or [None])[-1]}
    method = METHODS[name](given.model, **options)
    return torch.stack([flat_map(method(x), METHODS[name].additive) for x in (images, adversarial)], 1)


def titles(given: inputs.Inputs, images: "Tensor") -> list[str]:
    """The predicted class of each image and its probability."""
    best = given.logits(images).softmax(1).max(1)
    return [f"{console.shorten(given.label(int(i)), 24)}\n{float(p):.1%}" for p, i in zip(best.values, best.indices)]


def report(given: inputs.Inputs, images: "Tensor", found: "Tensor", rounded: "Tensor", names: list[str]) -> None:
    """Predictions before, after and after rounding; the noise in numbers beside random noise of its energy."""
    from interpretability.adversarial import measure_noise, random_change

    columns = [titles(given, x) for x in (images, found, rounded)]
    figures, random = measure_noise(rounded, images), measure_noise(random_change(rounded, images), images)
    for n, name in enumerate(names):
        was, unrounded, now = (column[n].replace("\n", " ") for column in columns)
        print(f"{name}: {was} -> {now} (before rounding {unrounded})")
        print(
            f"  L∞ {figures['linf'][n] * 255:.3g}/255, L2 {figures['l2'][n]:.3g}, PSNR {figures['psnr'][n]:.1f} dB\n"
            f"  roughness (total variation) {figures['total_variation'][n]:.2g}, as random noise of equal energy "
            f"{random['total_variation'][n]:.2g}; energy in high frequencies {figures['high_frequency_share'][n]:.0%}, "
            f"random {random['high_frequency_share'][n]:.0%}"
        )


def robustness(args: argparse.Namespace, given: inputs.Inputs) -> None:
    """Accuracy of the samples against ε, by each attack that the norm allows, as a curve and a table."""
    from interpretability.adversarial import robust_accuracy
    from interpretability.adversarial.figures import draw_robustness
    from interpretability.drawing import save_figure

    labels = given.labels if given.labels is not None else given.logits(given.images).argmax(1)
    epsilons = sorted(args.curve)
    curves = {}
    for attack in ("fgsm", "pgd") if args.norm == "linf" else ("pgd",):
        options = {"attack": attack, "norm": args.norm, "steps": args.steps, "progress": True}
        curves[attack] = robust_accuracy(given.model, given.images, labels, epsilons, **options)
    print(save_figure(draw_robustness(epsilons, curves, args.norm), args.output / f"robustness-{args.norm}.png"))
    print(output.write_arrays(args.output / f"robustness-{args.norm}.npz", epsilons=epsilons, **_numpy(curves)))
    print("epsilon   " + "".join(f"{attack:>8}" for attack in curves))
    for index, epsilon in enumerate(epsilons):
        print(f"{epsilon:<10.4g}" + "".join(f"{float(curve[index]):8.1%}" for curve in curves.values()))


def _numpy(tensors: "dict[str, Tensor]") -> dict:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
