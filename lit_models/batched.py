"""Many small networks trained at once: one batched product serves every fold, setting and seed.

A tiny network's update is nearly all overhead, which a thousand networks share. They differ in their weights,
in the samples they see, in λ and in the probability of dropout; the formulas are those of a single network.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_models import functional as F
from lit_models.checks import DivergedError
from lit_models.network import loss_and_gradients, network_forward
from lit_models.optimizers import Adam


class History(NamedTuple):
    """What `train_networks` saw: E records of networks (…) at N points."""

    updates: list[int]  # (E,) how many updates came before each record
    errors: Tensor  # (E, …, N, K): y − t at every point, seen or held out, without dropout
    layers: list[tuple[Tensor, Tensor]]  # the weights of each network when it was stopped


def make_networks(
    sizes: Sequence[int], count: int, generator: torch.Generator | None = None
) -> list[tuple[Tensor, Tensor]]:
    """``count`` networks of the given layer ``sizes``, uniform within ±1/√D as `nn.Linear` starts (eq. 1.22).

    Returns (w (count, K, D), b (count, K)) of each layer.
    """

    def uniform(*shape: int, bound: float) -> Tensor:
        return (2 * torch.rand(shape, generator=generator) - 1) * bound

    return [
        (uniform(count, k, d, bound=d**-0.5), uniform(count, k, bound=d**-0.5)) for d, k in itertools.pairwise(sizes)
    ]


def train_networks(
    x: Tensor,
    t: Tensor,
    layers: F.Layers,
    *,
    activation: str,
    updates: int,
    learning_rate: float,
    share: Tensor | None = None,
    weight_decay: float | Tensor = 0.0,
    dropout: float | Tensor = 0.0,
    stop_at: Tensor | None = None,
    record_every: int = 20,
    generator: torch.Generator | None = None,
    progress: Callable[[int], object] | None = None,
    observe: Callable[[int, F.Layers], object] | None = None,
) -> History:
    """Train every network by full-batch Adam on the mean squared error over the samples it may see.

    Args:
        x: inputs (N, D), the same for all.
        t: targets (N, K).
        layers: initial weights (…, K, D) and biases (…, K); left as they are.
        activation: a name of `functional.ACTIVATIONS`.
        updates: how many, one on all samples each; a multiple of ``record_every``.
        learning_rate: Adam's.
        share: (…, N, 1), each sample's share of a network's loss; 0 holds it out.
        weight_decay: λ, a number or (…, 1, 1).
        dropout: p, a number or (…, 1, 1).
        stop_at: (…), the update after which a network's weights are kept, among those recorded; else the last.
        record_every: updates between two records.
        generator: where the dropout masks come from; else torch's global one.
        progress: called with the number of updates done since its last call.
        observe: called at each record with the number of updates and the weights, which go on changing: copy them.

    Raises:
        DivergedError: a network left the finite numbers; the message names the update.
    """
    if updates % record_every:
        raise ValueError(f"updates {updates} must be a multiple of record_every {record_every}")
    layers = [(w.clone(), b.clone()) for w, b in layers]
    kept = [(w.clone(), b.clone()) for w, b in layers]
    parameters = [p for layer in layers for p in layer]
    optimizer = Adam(parameters, lr=learning_rate)
    records: list[int] = []
    errors: list[Tensor] = []

    def record(update: int) -> None:
        y, _ = network_forward(x, layers, activation)
        if not bool(y.isfinite().all()):
            raise DivergedError(f"a network diverged within {update} updates; try a smaller learning rate")
        records.append(update)
        if observe is not None:
            observe(update, layers)
        errors.append(y - t)
        stopped = torch.ones(y.shape[:-2], dtype=torch.bool, device=y.device) if stop_at is None else stop_at >= update
        for (w, b), (kept_w, kept_b) in zip(layers, kept):
            kept_w.copy_(torch.where(stopped[..., None, None], w, kept_w))
            kept_b.copy_(torch.where(stopped[..., None], b, kept_b))

    for update in range(0, updates, record_every):
        record(update)
        for _ in range(record_every):
            _, gradients = loss_and_gradients(
                x,
                t,
                layers,
                activation=activation,
                share=share,
                weight_decay=weight_decay,
                dropout=dropout,
                generator=generator,
            )
            for p, gradient in zip(parameters, (g for pair in gradients for g in pair)):
                p.grad = gradient
            optimizer.step()
        if progress is not None:
            progress(record_every)
    record(updates)
    return History(records, torch.stack(errors), kept)
