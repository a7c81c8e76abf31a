"""What can be asked of an explanation, one number per sample each. Chapter 6 of docs/maths.md.

Where a map gives no answer (constant, or zero everywhere) the result is still defined: its pixels count as equal,
in random order, and its correlation with anything is 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from interpretability.attribution.batches import in_batches, stacked
from interpretability.devices import on_models_device
from interpretability.layers import evaluating
from interpretability.targets import Target, repeat_target, target_scores

Score = Callable[[nn.Module, Tensor, Target], Tensor]  # (model, x, target) -> (N,)


def probabilities(model: nn.Module, x: Tensor, target: Target) -> Tensor:
    """The softmax probability of the target, or for a callable target what it makes of the probabilities: (N,)."""
    return target_scores(model(x).softmax(dim=1), target)


def ranks(importance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The place of each pixel when sorted by falling importance, equal ones in random order: (N, …) -> (N, P)."""
    flat = importance.flatten(1)
    shuffle = torch.rand(flat.shape, generator=generator).to(flat.device).argsort(dim=1)
    order = shuffle.gather(1, flat.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


@on_models_device
def perturbation_curve(
    model: nn.Module,
    x: Tensor,
    target: Target,
    order: Tensor,
    *,
    baseline: float | Tensor = 0.0,
    n_steps: int = 20,
    insertion: bool = False,
    score: Score = probabilities,
    batch_size: int | None = None,
) -> Tensor:
    """The score while the most important pixels are deleted, or inserted into the baseline   eq. 6.1.

    Petsiuk, Das, Saenko 2018, "RISE", section 4.2. Step k has changed the first k/n_steps of the pixels.

    Args:
        model: takes ``x``, returns logits.
        x: (N, C, H, W).
        target: other than None, which would follow the changes.
        order: the place of each pixel (N, H·W), see :func:`ranks`.
        baseline: what a deleted pixel becomes; a number, or a tensor that broadcasts to ``x``.
        n_steps: points on the curve, less one.
        insertion: start from the baseline and put pixels in, instead of starting from ``x``.
        score: ``(model, x, target) -> (N,)``.
        batch_size: rows in a forward pass; by default as many as run fastest.

    Returns:
        (N, n_steps + 1).
    """
    pixels = order.shape[1]
    counts = torch.linspace(0, pixels, n_steps + 1, device=x.device).round()
    empty = torch.as_tensor(baseline, dtype=x.dtype, device=x.device).expand_as(x)
    before, after = (empty, x) if insertion else (x, empty)

    def part(steps: slice) -> Tensor:
        changed = order < counts[steps].view(-1, 1, 1)  # (k, N, P)
        changed = changed.unflatten(2, x.shape[2:]).unsqueeze(2)  # (k, N, 1, H, W)
        images = torch.where(changed, after, before).flatten(0, 1)
        k = len(counts[steps])
        return score(model, images, repeat_target(target, k)).view(k, len(x))

    with evaluating(model), torch.no_grad():
        curve = list(in_batches(n_steps + 1, x, batch_size, "insertion" if insertion else "deletion", part))
    return torch.cat(curve).T


def area(curve: Tensor) -> Tensor:
    """The area under a curve (N, n + 1) over [0, 1], by the trapezoidal rule: (N,)   eq. 6.2."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1), dim=1)


def infidelity(predicted: Tensor, observed: Tensor, normalize: bool = True) -> Tensor:
    """How badly the attribution foretells what perturbations do to the score: (M, N), (M, N) -> (N,)   eq. 6.3, 6.4.

    Yeh et al. 2019, "On the (in)fidelity and sensitivity of explanations", definition 2.1.

    Args:
        predicted: IᵀΦ for M perturbations I: by how much the score should fall.
        observed: score(x) − score(x − I).
        normalize: allow the best scale of Φ and divide by the mean of ``observed``²: 0 foretells all, 1 nothing.
    """
    if not normalize:
        return (predicted - observed).square().mean(dim=0)
    predicted, observed = predicted.double(), observed.double()
    cross = (predicted * observed).sum(dim=0)
    energy = predicted.square().sum(dim=0) * observed.square().sum(dim=0)
    return 1 - torch.where(energy > 0, cross.square() / energy, 0.0)


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """‖after − before‖ / ‖before‖ for each sample (N,); where before is 0, ‖after‖   eq. 6.5.

    Its maximum over small changes of the input is the max-sensitivity of Yeh et al. 2019, definition 3.1.
    """
    norm = before.flatten(1).norm(dim=1)
    return (after - before).flatten(1).norm(dim=1) / torch.where(norm > 0, norm, 1.0)


def completeness_error(attribution: Tensor, difference: Tensor) -> Tensor:
    """|Σ attribution − difference| / |difference|, where difference is 0 without the division: (N,)   eq. 6.6."""
    miss = (attribution.flatten(1).sum(dim=1) - difference).abs()
    return miss / torch.where(difference == 0, 1.0, difference.abs())


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's ρ of two batches of maps (N, …), ties at their mean rank: (N,) in [−1, 1]   eq. 6.7."""
    first, second = (_centred(_mean_ranks(value.flatten(1))) for value in (a, b))
    scale = first.norm(dim=1) * second.norm(dim=1)
    return torch.where(scale > 0, (first * second).sum(dim=1) / scale, 0.0)


def _mean_ranks(values: Tensor) -> Tensor:
    values = values.double().contiguous()
    ascending = values.sort(dim=1).values
    below = torch.searchsorted(ascending, values)
    up_to = torch.searchsorted(ascending, values, right=True)
    return (below + up_to).double() / 2


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=1, keepdim=True)


def square_masks(shape: tuple[int, int], side: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` boolean masks (count, H, W), each with one square of ``side`` at a random place."""
    height, width = shape
    side = max(1, min(side, height, width))
    top = torch.randint(height - side + 1, (count, 1, 1), generator=generator)
    left = torch.randint(width - side + 1, (count, 1, 1), generator=generator)
    row, column = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    return (row >= top) & (row < top + side) & (column >= left) & (column < left + side)


@on_models_device
def perturbed_scores(
    model: nn.Module, x: Tensor, target: Target, masks: Tensor, baseline: Tensor, batch_size: int | None = None
) -> Tensor:
    """The score with each mask's pixels at the baseline: x (N, C, H, W), masks (M, H, W) -> (M, N)."""

    def part(chosen: slice) -> Tensor:
        k = len(masks[chosen])
        images = torch.where(masks[chosen].to(x.device)[:, None, None], baseline, stacked(x, k).view(k, *x.shape))
        return target_scores(model(images.flatten(0, 1)), repeat_target(target, k)).view(k, len(x))

    with evaluating(model), torch.no_grad():
        return torch.cat(list(in_batches(len(masks), x, batch_size, "infidelity", part)))
