"""Accuracy under attack as the attack is allowed to grow."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from interpretability.adversarial.attacks import fgsm, pgd
from interpretability.devices import on_models_device
from interpretability.layers import evaluating

ATTACKS = ("fgsm", "pgd")


@on_models_device
def robust_accuracy(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    epsilons: Sequence[float],
    *,
    attack: str = "pgd",
    norm: str = "linf",
    steps: int = 20,
    batch_size: int = 250,
    progress: bool = False,
) -> Tensor:
    """The share of images still classified as ``labels`` (N,) when attacked with each ε (E,), ascending.

    An image misclassified to begin with counts as lost for every ε. PGD goes on from what it found for the
    ε before, so that its success never falls as ε grows.

    Raises:
        ValueError: an unknown attack, FGSM with another norm than "linf", or ε that do not ascend.
    """
    if attack not in ATTACKS:
        raise ValueError(f"unknown attack {attack!r}; there are: {', '.join(ATTACKS)}")
    if attack == "fgsm" and norm != "linf":
        raise ValueError(f"fgsm is an attack in the norm 'linf', not {norm!r}")
    if list(epsilons) != sorted(epsilons):
        raise ValueError(f"epsilons must ascend: {list(epsilons)}")
    survivors = torch.zeros(len(epsilons))
    batches = list(zip(x.split(batch_size), labels.split(batch_size)))
    for images, truth in tqdm(batches, desc=f"{attack} {norm}", unit="batch", disable=not progress):
        found = images
        for index, epsilon in enumerate(epsilons):
            if attack == "fgsm":
                found = fgsm(model, images, truth, epsilon)
            else:
                found = pgd(model, images, truth, epsilon, norm=norm, steps=steps, start=found)
            with evaluating(model), torch.no_grad():
                survivors[index] += (model(found).argmax(1) == truth).sum().item()
    return survivors / len(x)
