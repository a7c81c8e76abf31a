"""Small changes to an image that change what a classifier sees: FGSM, PGD and DeepFool.

Images (N, …) are in pixel units inside ``bounds``; ``target`` is the true class, or the wanted one when
``targeted``: an int or a LongTensor (N,). The network is left as it was.
"""

import torch
from torch import Tensor, nn

from interpretability.adversarial.ball import Ball, check_bounds
from interpretability.devices import on_models_device
from interpretability.gradients import input_gradient
from interpretability.layers import evaluating
from interpretability.targets import log_odds, resolve_target

Bounds = tuple[float, float]


@on_models_device
def fgsm(
    model: nn.Module,
    x: Tensor,
    target: int | Tensor,
    epsilon: float,
    *,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> Tensor:
    """One step of size ε along the sign of the gradient (Goodfellow et al. 2015, "Explaining and Harnessing"; eq. 8.5).

    Returns:
        (N, …) images exactly within ε of ``x`` in L∞ and within the bounds.
    """
    ball = Ball(x, epsilon, "linf", bounds)
    labels = as_labels(target, x)
    _, gradient = _gain_and_gradient(model, x, labels, targeted)
    return ball.project(x + ball.epsilon * ball.steepest(gradient))


@on_models_device
def pgd(
    model: nn.Module,
    x: Tensor,
    target: int | Tensor,
    epsilon: float,
    *,
    steps: int = 40,
    step_size: float | None = None,
    norm: str = "linf",
    targeted: bool = False,
    random_start: bool = False,
    start: Tensor | None = None,
    bounds: Bounds = (0.0, 1.0),
    seed: int = 0,
) -> Tensor:
    """Repeated, projected steepest ascent (Madry et al. 2018, "Towards Deep Learning Models Resistant"; eq. 8.6).

    ``norm`` is "linf" or "l2" (over a whole image); ``step_size`` is 2.5 ε / steps by default. It starts from
    ``x``; with ``random_start`` from a point of the ball drawn with ``seed``; or from ``start``, such as the
    images found for a smaller ε.

    Each image comes back as the best of its iterates, of where it started and of the single step of size ε
    from ``x`` (FGSM's, for "linf"), by the margin of eq. 8.2: it is never worse than any of them. It lies
    exactly within ε of ``x`` and within the bounds.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    ball = Ball(x, epsilon, norm, bounds)
    labels = as_labels(target, x)
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    margin, gradient = _gain_and_gradient(model, x, labels, targeted)
    best = _Best(x, margin)
    single = ball.project(x + ball.epsilon * ball.steepest(gradient))
    best.offer(single, margins(_logits(model, single), labels, targeted))
    if start is not None:
        current = ball.project(start)
    else:
        current = ball.random(torch.Generator().manual_seed(seed)) if random_start else x
    for _ in range(steps):
        margin, gradient = _gain_and_gradient(model, current, labels, targeted)
        best.offer(current, margin)
        current = ball.project(current + step_size * ball.steepest(gradient))
    best.offer(current, margins(_logits(model, current), labels, targeted))
    return best.images


@on_models_device
def deepfool(
    model: nn.Module,
    x: Tensor,
    target: int | Tensor | None = None,
    *,
    rivals: int = 10,
    steps: int = 50,
    overshoot: float = 0.02,
    bounds: Bounds = (0.0, 1.0),
) -> Tensor:
    """Step after step to the nearest boundary of the linearised classifier (Moosavi-Dezfooli et al. 2016; eq. 8.8).

    The change is about the smallest in L2 that alters the prediction; on a linear model exactly that, times
    1 + overshoot. An image that does not get there in ``steps`` comes back as far as it got.

    ``target`` is the wanted class; None for any but the predicted one, where the ``rivals`` next most likely
    classes compete to be the nearest.
    """
    check_bounds(x, bounds)
    logits = _logits(model, x)
    original = logits.argmax(1)
    if target is None:
        if rivals < 1 or logits.shape[1] < 2:
            raise ValueError(f"deepfool needs rivals: {rivals} of a model with {logits.shape[1]} outputs")
        candidates = logits.argsort(dim=1, descending=True)[:, 1 : 1 + rivals]  # (N, R)
    else:
        candidates = as_labels(target, x)[:, None]
        resolve_target(logits, candidates[:, 0])  # a class out of range is told here
    reached, change = x, torch.zeros_like(x)
    for _ in range(steps):
        predicted = _logits(model, reached).argmax(1)
        done = predicted != original if target is None else predicted == candidates[:, 0]
        if done.all():
            break
        step = _nearest_boundary(model, reached, predicted, candidates, bounds)
        change = change + step * ~done.view(-1, *[1] * (x.ndim - 1))
        reached = (x + (1 + overshoot) * change).clamp(*bounds)
        change = (x + change).clamp(*bounds) - x
    return reached


def _nearest_boundary(model: nn.Module, x: Tensor, predicted: Tensor, candidates: Tensor, bounds: Bounds) -> Tensor:
    """The step from x (N, …) to the nearest of the boundaries with ``candidates`` (N, R); eq. 8.8."""
    n, r = candidates.shape
    gaps: list[Tensor] = []

    def gap(logits: Tensor) -> Tensor:
        rows = torch.arange(n * r, device=logits.device)
        f = logits[rows, candidates.flatten()] - logits[rows, predicted.repeat_interleave(r)]
        gaps.append(f.detach())
        return f

    repeated = x.repeat_interleave(r, 0)
    w = input_gradient(model, repeated, gap)
    outward = ((repeated <= bounds[0]) & (w < 0)) | ((repeated >= bounds[1]) & (w > 0))
    w, f = w.masked_fill(outward, 0).view(n, r, -1), gaps[-1].view(n, r)
    squared = w.square().sum(2).clamp(min=torch.finfo(w.dtype).tiny)
    nearest = (f.abs() / squared.sqrt()).argmin(1)
    rows = torch.arange(n, device=x.device)
    length, w = f.abs()[rows, nearest] / squared[rows, nearest], w[rows, nearest]
    return (length[:, None] * w).masked_fill(w == 0, 0).view_as(x)  # also where no pixel counts: an infinite length


def margins(logits: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    """How far an attack has succeeded (N,), positive once it has (eq. 8.2)."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return own[:, 0] - others if targeted else others - own[:, 0]


def as_labels(target: int | Tensor, x: Tensor) -> Tensor:
    """A class, or one per image, as a LongTensor (N,) on the images' device."""
    labels = torch.as_tensor(target, device=x.device)
    if labels.is_floating_point() or labels.ndim > 1 or (labels.ndim == 1 and len(labels) != len(x)):
        raise ValueError(f"target must be a class or one class for each of {len(x)} images: {target}")
    return labels.long().expand(len(x))


class _Best:
    """Of several candidates for each image, the one with the largest margin."""

    def __init__(self, images: Tensor, margin: Tensor):
        self.images, self.margin = images.clone(), margin.clone()

    def offer(self, images: Tensor, margin: Tensor) -> None:
        better = margin > self.margin
        self.images[better], self.margin[better] = images[better], margin[better]


def _gain_and_gradient(model: nn.Module, x: Tensor, labels: Tensor, targeted: bool) -> tuple[Tensor, Tensor]:
    """The margin at x (N,) and the gradient there of the log-odds, for or against (eq. 8.1), from one pass."""
    seen: list[Tensor] = []

    def watched(logits: Tensor) -> Tensor:
        odds = log_odds(logits, labels)
        seen.append(margins(logits.detach(), labels, targeted))
        return odds if targeted else -odds

    gradient = input_gradient(model, x, watched)
    return seen[-1], gradient


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    with evaluating(model), torch.no_grad():
        return model(x)
