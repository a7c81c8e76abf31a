"""What would have to be different in an image for another decision: a smooth change that one can see and judge."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interpretability.adversarial.attacks import Bounds, as_labels
from interpretability.adversarial.ball import Ball
from interpretability.attribution.batches import at_least
from interpretability.devices import on_models_device
from interpretability.layers import evaluating
from interpretability.targets import log_odds, resolve_target

LARGEST_CHANGE = 0.35  # of a pixel, in the mean square
COPIES = 8
STEP = 2.0  # how far a step goes, over how much the radius grows
ROUNDED = 1e-2  # of the absolute value in the total variation


@on_models_device
def counterfactual(
    model: nn.Module,
    x: Tensor,
    target: int | Tensor,
    *,
    epsilon: float | None = None,
    steps: int = 60,
    confidence: float = 0.95,
    noise: float = 0.25,
    smoothness: float = 0.1,
    bounds: Bounds = (0.0, 1.0),
    seed: int = 0,
) -> Tensor:
    """Images near ``x`` (N, C, H, W) that the model takes for ``target`` even where they are moved or noisy.

    An attack finds the smallest change, which nobody sees and the next network does not follow. Here the radius grows
    until the decision holds for noisy copies as well, moved by up to a pixel, which needs evidence rather than
    noise; and total variation is kept low (eq. 8.10, 8.11). After Kaur et al. 2019, "Are perceptually-aligned
    gradients a general property of robust classifiers?".

    Args:
        model: on images in ``bounds``.
        x: images.
        target: the wanted class, or one for each image.
        epsilon: the largest change in L2; by default 0.35 a pixel, in the mean square.
        steps: in which the radius grows from 0 to ``epsilon``.
        confidence: the target's probability for the image, and on average for its copies, at which it is done.
        noise: standard deviation in the copies.
        smoothness: weight of the total variation, against the score's.
        bounds: least and largest value of a pixel.
        seed: of the copies.

    Returns:
        For each image the first that is done, or else that of the largest radius, which may not be the target's.
    """
    if x.ndim != 4:
        raise ValueError(f"counterfactuals are of images (N, C, H, W); got {tuple(x.shape)}")
    at_least("steps", steps, 1)
    for name, value, top in (("confidence", confidence, 1.0), ("noise", noise, math.inf)):
        if not 0 <= value < top:
            raise ValueError(f"{name} must be at least 0 and below {top:g}; got {value}")
    if not 0 <= smoothness < math.inf:
        raise ValueError(f"smoothness must be a finite number from 0 on; got {smoothness}")
    epsilon = LARGEST_CHANGE * math.sqrt(x[0].numel()) if epsilon is None else epsilon
    Ball(x, epsilon, "l2", bounds)  # tells what is wrong with x, ε or the bounds
    labels = as_labels(target, x)
    found, current = x.clone(), x.clone()
    open_ = torch.ones(len(x), dtype=torch.bool, device=x.device)
    generator = torch.Generator().manual_seed(seed)
    with evaluating(model):
        with torch.no_grad():
            resolve_target(model(x.clone()), labels)
        for step in range(steps + 1):
            rows = open_.nonzero().flatten()
            sure, direction = _evidence(model, current[rows], labels[rows], noise, smoothness, generator)
            found[rows] = current[rows]
            open_[rows[sure >= confidence]] = False
            if step == steps or not open_.any():
                return found
            ball = Ball(x[rows], epsilon * (step + 1) / steps, "l2", bounds)
            current[rows] = ball.project(current[rows] + STEP * epsilon / steps * direction)
    return found


def _evidence(
    model: nn.Module, x: Tensor, labels: Tensor, noise: float, smoothness: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The smaller of the target's probability at x and its mean over copies (N,), and the direction to go."""
    leaf = x.detach().clone().requires_grad_()
    views = torch.cat([leaf, *(_moved(leaf, noise, generator) for _ in range(COPIES))])
    odds = log_odds(model(views), labels.repeat(COPIES + 1))
    (gradient,) = torch.autograd.grad(F.logsigmoid(odds).sum(), leaf)
    probabilities = odds.detach().sigmoid().view(COPIES + 1, -1)
    sure = torch.minimum(probabilities[0], probabilities.mean(dim=0))
    direction = _unit(gradient)
    if smoothness:
        leaf = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(rounded_variation(leaf).sum(), leaf)
        direction = direction - smoothness * _unit(gradient)
    return sure, direction


def _moved(x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """A copy with noise, at most a pixel away along each axis; the same noise for each image."""
    drawn = noise * torch.randn(x.shape[1:], generator=generator, dtype=torch.float64).to(x)
    top, left = torch.randint(-1, 2, (2,), generator=generator).tolist()
    return (x + drawn).roll((top, left), (2, 3))


def rounded_variation(images: Tensor) -> Tensor:
    """Total variation of images (N, C, H, W) that has a gradient where neighbours are alike: (N,)."""
    differences = images.diff(dim=-1), images.diff(dim=-2)
    return sum(((d.square() + ROUNDED**2).sqrt().sum((1, 2, 3)) for d in differences), images.new_zeros(len(images)))


def _unit(gradient: Tensor) -> Tensor:
    length = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient / length.view(-1, 1, 1, 1)
