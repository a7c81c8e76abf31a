"""The formulas of `lit_models.functional` composed into a whole network of any depth, or many at once."""

from typing import Any

import torch
from torch import Tensor

from lit_models import functional as F

Cache = list[tuple[Any, Any, Tensor | None]]  # of each layer: linear, activation, dropout mask


def network_forward(
    x: Tensor,
    layers: F.Layers,
    activation: str,
    dropout: float | Tensor = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Cache]:
    """``x`` (…, N, D) -> ``y`` (…, N, K): linear, activation and dropout in turn; the last layer is linear only.

    ``dropout`` 0 leaves it out; a tensor (…, 1, 1) gives each network its own probability. Its masks come from
    ``generator``, else from torch's global one.
    """
    act = F.ACTIVATIONS[activation].forward
    drop = isinstance(dropout, Tensor) or dropout > 0
    caches: Cache = []
    for w, b in layers[:-1]:
        z, linear = F.linear_forward(x, w, b)
        x, state = act(z)
        mask = None
        if drop:
            x, mask = F.dropout_forward(x, dropout, generator)
        caches.append((linear, state, mask))
    y, linear = F.linear_forward(x, *layers[-1])
    caches.append((linear, None, None))
    return y, caches


def _backward_through(caches: Cache, activation: str, dz: Tensor, gradients: list | None) -> Tensor:
    """``dz`` of the first layer from that of the last (eq. 1.17), collecting (dw, db) on the way where asked."""
    act = F.ACTIVATIONS[activation].backward
    for depth in range(len(caches) - 1, -1, -1):
        if gradients is not None:
            gradients.append(F.linear_backward(dz, caches[depth][0]))
        if depth:
            da = F.linear_input_backward(dz, caches[depth][0])
            _, state, mask = caches[depth - 1]
            dz = act(da if mask is None else F.dropout_backward(da, mask), state)
    return dz


def network_backward(dy: Tensor, caches: Cache, activation: str) -> list[tuple[Tensor, Tensor]]:
    """(dw, db) of each layer, from the input to the output (eq. 1.17)."""
    gradients: list[tuple[Tensor, Tensor]] = []
    _backward_through(caches, activation, dy, gradients)
    return gradients[::-1]


def network_input_backward(dy: Tensor, caches: Cache, activation: str) -> Tensor:
    """``dx`` (…, N, D), the gradient with respect to the input (eq. 1.18)."""
    return F.linear_input_backward(_backward_through(caches, activation, dy, None), caches[0][0])


def loss_and_gradients(
    x: Tensor,
    t: Tensor,
    layers: F.Layers,
    *,
    activation: str,
    loss: str = "mse",
    dropout: float | Tensor = 0.0,
    weight_decay: float | Tensor = 0.0,
    share: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The loss, data term plus (λ/2) Σ w² over the weights (…), and (dw, db) of each layer (eq. 1.19).

    Args as in `network_forward`, `penalty_forward` (``weight_decay``: λ) and `mse_forward` (``share``).
    """
    term = F.LOSSES[loss]
    options = {} if share is None else {"share": share}
    with torch.no_grad():
        y, caches = network_forward(x, layers, activation, dropout, generator)
        value, cache = term.forward(y, t, **options)
        gradients = network_backward(term.backward(cache), caches, activation)
        if isinstance(weight_decay, Tensor) or weight_decay > 0:
            for (w, _), (dw, _) in zip(layers, gradients):
                value = value + F.penalty_forward(w, weight_decay)
                dw += F.penalty_backward(w, weight_decay)
    return value, gradients


def score_gradient(y: Tensor, target: Any = None) -> Tensor:
    """∂score/∂y (N, K) for a score that ``target`` picks or computes from the outputs."""
    if callable(target):
        with torch.inference_mode(False), torch.enable_grad():
            leaf = y.clone().requires_grad_()
            return torch.autograd.grad(target(leaf).sum(), leaf)[0]
    n, k = y.shape
    classes = y.argmax(1) if target is None else torch.as_tensor(target, device=y.device).expand(n)
    if not bool(((classes >= 0) & (classes < k)).all()):
        raise ValueError(f"target {target} is not among the {k} outputs")
    return torch.zeros_like(y).scatter_(1, classes.unsqueeze(1), 1.0)
