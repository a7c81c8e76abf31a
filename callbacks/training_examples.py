"""Training images that speak for what a module says of an image: those most like it, and those that moved it most."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from callbacks.samples import fixed_samples
from interpretability.examples import influential_training_images, similar_training_images
from interpretability.plain_files import load_plain

CANDIDATES, ROWS = 500, 100
MOST_CHECKPOINTS = 3


@dataclass(frozen=True)
class Examples:
    """Of M images each: training images (M, k, C, H, W) and their classes (M, k), the strongest first."""

    similar: Tensor
    similar_labels: Tensor
    influential: Tensor
    influential_labels: Tensor


def training_examples(
    trainer: Trainer, pl_module: LightningModule, images: Tensor, predicted: Tensor, k: int
) -> Examples | None:
    """``k`` of each kind, out of some hundreds of training images; None where the trainer has no training data.

    What speaks for the ``predicted`` classes is asked of the run's checkpoints, or of the module where there are none.
    """
    with torch.inference_mode(False), torch.enable_grad():
        found = fixed_samples(trainer, pl_module, "train", CANDIDATES)
        if found is None:
            return None
        x, y = (tensor.clone() for tensor in found)
        images = images.clone().to(x)
        loader = list(zip(x.split(ROWS), y.split(ROWS)))
        similar = similar_training_images(pl_module, last_but_one(pl_module), images, loader, k)
        models = run_checkpoints(trainer, pl_module)
        target = predicted.clone().to(y)
        influential = influential_training_images(models, images, target, loader, k)
        x, y = x.cpu(), y.cpu()
        parts = (similar.indices.cpu(), influential.indices.cpu())
        return Examples(x[parts[0]], y[parts[0]], x[parts[1]], y[parts[1]])


def last_but_one(module: nn.Module) -> str | None:
    """The last layer with weights but one, which the head reads; None, the input, where there is none."""
    layers = [name for name, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    return layers[-2] if len(layers) > 1 else None


def run_checkpoints(trainer: Trainer, pl_module: LightningModule) -> list[tuple[nn.Module, float]]:
    """Copies of the module with the weights of the run's checkpoints, each with its learning rate."""
    callback = trainer.checkpoint_callback
    folder = getattr(callback, "dirpath", None)
    models: list[tuple[nn.Module, float]] = []
    for path in sorted(Path(folder).glob("*.ckpt"))[:MOST_CHECKPOINTS] if folder else ():
        stored = load_plain(path)
        model = copy.deepcopy(pl_module)
        model.load_state_dict(stored["state_dict"])
        groups = [state["param_groups"][0] for state in stored.get("optimizer_states", ()) if state.get("param_groups")]
        models.append((model, float(groups[0].get("lr", 1.0)) if groups else 1.0))
    return models or [(pl_module, 1.0)]
