"""Slow, independent replicas that the tests compare with: autograd's modules and losses, and finite differences."""

import torch
from torch import Tensor, nn

from lit_models import LitMLP


def mlp_objective(mlp: LitMLP, x: Tensor, t: Tensor) -> Tensor:
    """The objective of ``mlp`` by torch's own layers and losses, for autograd to differentiate."""
    y = mlp(x)
    data = nn.functional.mse_loss(y, t) if mlp.loss == "mse" else nn.functional.cross_entropy(y, t)
    weights = [p for name, p in mlp.named_parameters() if name.endswith("weight")]
    return data + 0.5 * mlp.hparams.weight_decay * sum(w.pow(2).sum() for w in weights)


def central_differences(function, values: Tensor, step: float = 1e-6) -> Tensor:
    """∂function/∂values, one element at a time; ``values`` is changed in place and put back."""
    gradient = torch.zeros_like(values)
    flat, out = values.data.view(-1), gradient.view(-1)
    for i in range(flat.numel()):
        kept = flat[i].item()
        flat[i] = kept + step
        above = float(function())
        flat[i] = kept - step
        below = float(function())
        flat[i] = kept
        out[i] = (above - below) / (2 * step)
    return gradient
