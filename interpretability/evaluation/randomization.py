"""The parameter-randomisation sanity check: an explanation of a network should change with the network.

Adebayo et al. 2018, "Sanity checks for saliency maps", section 3: the layers lose what they have learned one
after another, from the logits down, and the maps are compared with those of the trained network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import nn


def learned_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules with parameters of their own by dotted name, from the output down (the reverse of definition)."""
    found = {
        name: module for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))
    }
    return dict(reversed(found.items()))


def stage_names(model: nn.Module, n_stages: int) -> list[list[str]]:
    """The layers from the output down in at most ``n_stages`` groups of about equal size."""
    names = list(learned_layers(model))
    if not names:
        raise ValueError("the model has no parameters to randomise")
    n_stages = min(n_stages, len(names))
    cuts = [round(i * len(names) / n_stages) for i in range(n_stages + 1)]
    return [names[start:stop] for start, stop in pairwise(cuts)]


@contextmanager
def cascade(model: nn.Module, n_stages: int, seed: int = 0) -> Iterator[Iterator[str]]:
    """An iterator that randomises one more group of layers at each step and gives the name of its lowest layer.

    Every parameter is drawn anew from the normal distribution with its own mean and standard deviation, so
    that activations keep their scale. At the end of the ``with`` block the parameters are as they were.

    Raises:
        ValueError: the model has no parameters.
    """
    stages = stage_names(model, n_stages)
    kept = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    try:
        yield _randomize(model, stages, torch.Generator().manual_seed(seed))
    finally:
        with torch.no_grad():
            for parameter, values in kept:
                parameter.copy_(values)


def _randomize(model: nn.Module, stages: list[list[str]], generator: torch.Generator) -> Iterator[str]:
    layers = learned_layers(model)
    for names in stages:
        for name in names:
            for parameter in layers[name].parameters(recurse=False):
                fresh = torch.randn(parameter.shape, generator=generator).to(parameter)
                with torch.no_grad():
                    parameter.copy_(parameter.mean() + parameter.std(unbiased=False) * fresh)
        yield names[-1]
