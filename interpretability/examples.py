"""Which training images speak for a decision: the nearest in a layer, and those whose steps moved the score."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn import functional as F

from interpretability.attribution.base import check_input
from interpretability.attribution.batches import at_least
from interpretability.devices import device_of, on_models_device
from interpretability.layers import evaluating, forward_to

Loader = Iterable[tuple[Tensor, Tensor]]


class Found(NamedTuple):
    """The places of training images in the loader's order, and how strongly each speaks: (N, k) both, largest first."""

    indices: Tensor
    values: Tensor


@on_models_device
def similar_training_images(model: nn.Module, layer: str | None, x: Tensor, loader: Loader, k: int = 5) -> Found:
    """The ``k`` images of ``loader`` most like each of ``x`` by the cosine of a layer's outputs   eq. 12.4.

    ``layer`` None compares the images themselves. The loader gives (images, labels), in an order that stays the same.
    """
    check_input(x)
    at_least("k", k, 1)
    with evaluating(model), torch.no_grad():
        ours = F.normalize(forward_to(model, layer, x).flatten(1), dim=1)
        rows = [ours @ F.normalize(forward_to(model, layer, images.to(x)).flatten(1), dim=1).T for images, _ in loader]
    return _best(rows, k)


def influential_training_images(
    models: Sequence[tuple[nn.Module, float]], x: Tensor, target: Tensor, loader: Loader, k: int = 5
) -> Found:
    """The ``k`` images of ``loader`` whose gradient steps lowered the loss at each of ``x`` most   eq. 12.5.

    Pruthi et al. 2020, "Estimating training data influence by tracing gradient descent", equation 1 (TracInCP): over
    checkpoints, with the gradient of all parameters. One pass through the loader for each sample and checkpoint, which
    takes the derivative of every training loss along the sample's gradient; none of those gradients is ever held.

    Args:
        models: the checkpoints, each with the learning rate there.
        x: samples (N, …).
        target: their true classes (N,).
        loader: of (images, labels), in an order that stays the same.
        k: how many.
    """
    check_input(x)
    at_least("k", k, 1)
    if not models:
        raise ValueError("influence needs at least one checkpoint")
    return _best(
        [sum(row[1:], row[0]) for row in zip(*(_influences(m, rate, x, target, loader) for m, rate in models))], k
    )


def _influences(model: nn.Module, rate: float, x: Tensor, target: Tensor, loader: Loader) -> list[Tensor]:
    """For each batch of the loader rate · ∇ℓ(training image) · ∇ℓ(sample): (N, rows)."""
    device = device_of(model)
    origin, x, target = x.device, x.to(device), target.to(device)
    with evaluating(model):
        values = {name: value.detach() for name, value in model.named_parameters()}

        def losses(parameters: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
            logits = functional_call(model, parameters, (images.clone(),))
            return F.cross_entropy(logits, labels, reduction="none")

        directions = []
        for n in range(len(x)):
            leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
            loss = losses(leaves, x[n : n + 1], target[n : n + 1]).sum()
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            zero = [torch.zeros_like(v) if g is None else g for v, g in zip(values.values(), gradients)]
            directions.append(dict(zip(values, zero)))
        found = []
        with torch.no_grad():
            for images, labels in loader:
                images, labels = images.to(x), labels.to(x.device)
                rows = [jvp(lambda p: losses(p, images, labels), (values,), (d,))[1] for d in directions]  # noqa: B023
                found.append((rate * torch.stack(rows)).to(origin))
    return found


def _best(rows: Sequence[Tensor], k: int) -> Found:
    if not rows:
        raise ValueError("the loader holds no images")
    values = torch.cat(list(rows), dim=1)
    best = values.topk(min(k, values.shape[1]), dim=1)
    return Found(best.indices, best.values)
