"""Which layers of a network a page shows when nobody says."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interpretability.layers import evaluating, find_layer, layer_names

LARGEST_SIDE = 64  # finer maps have more places than one can point at
USUAL_DEPTH = 2  # features.12, layer4.2, stages.1: the names that blocks have


@dataclass
class Candidate:
    """A layer that puts out maps: of the names that share an output, the one to show."""

    name: str
    side: tuple[int, int]
    output: tuple[int, int]  # the tensor's place in memory and its version
    pooled: bool

    @property
    def rank(self) -> tuple[bool, bool]:
        """What speaks for showing it: it is no pooled copy of an earlier one, it is a block and no part of one."""
        return not self.pooled, self.name.count(".") < USUAL_DEPTH


def choose_layers(model: nn.Module, x: Tensor, count: int = 4) -> list[str]:
    """Up to ``count`` layers with maps, early to late, for images ``x`` (1, C, H, W).

    The last block of each resolution, coarsest preferred; then blocks between them. Class maps, as wide as
    the logits, are left out.

    Raises:
        ValueError: no layer of the model puts out maps (N, C, h, w) of more than one place.
    """
    candidates = _candidates(model, x)
    if not candidates:
        raise ValueError(f"no layer of {type(model).__name__} puts out maps (N, C, h, w) with more than one place")
    best: dict[tuple[int, int], int] = {}
    for index, candidate in enumerate(candidates):
        if candidate.side not in best or candidate.rank >= candidates[best[candidate.side]].rank:
            best[candidate.side] = index
    chosen = sorted(best.values())[-count:]
    blocks = [index for index, candidate in enumerate(candidates) if candidate.rank == (True, True)]
    while len(chosen) < count:
        gaps = {index: min(abs(index - other) for other in [-1, *chosen]) for index in blocks if index < chosen[-1]}
        widest = max(gaps, key=lambda index: gaps[index], default=None)
        if widest is None or gaps[widest] < 2:
            break
        chosen = sorted([*chosen, widest])
    return [candidates[index].name for index in chosen]


def _candidates(model: nn.Module, x: Tensor) -> list[Candidate]:
    """The layers with maps in the order in which they finish, one for each output."""
    runs: dict[str, int] = {}
    found: list[Candidate] = []

    def record(name: str, module: nn.Module, output: object) -> None:
        runs[name] = runs.get(name, 0) + 1
        if not isinstance(output, Tensor) or not _has_maps(output, x):
            return
        side = (output.shape[2], output.shape[3])
        one = Candidate(name, side, (output.data_ptr(), output._version), "Pool" in type(module).__name__)
        if found and found[-1].output == one.output:
            one.pooled = found[-1].pooled = one.pooled or found[-1].pooled
            if abs(name.count(".") + 1 - USUAL_DEPTH) < abs(found[-1].name.count(".") + 1 - USUAL_DEPTH):
                found[-1] = one
        else:
            found.append(one)
        widths[name] = output.shape[1]

    widths: dict[str, int] = {}
    handles = [
        find_layer(model, name).register_forward_hook(
            lambda module, args, output, name=name: record(name, module, output)
        )
        for name in layer_names(model)
    ]
    try:
        with evaluating(model), torch.no_grad():
            logits = model(x.clone())
    finally:
        for handle in handles:
            handle.remove()
    once = [candidate for candidate in found if runs[candidate.name] == 1]
    features = [candidate for candidate in once if widths[candidate.name] != logits.shape[-1]]
    return features or once


def _has_maps(output: Tensor, x: Tensor) -> bool:
    """Whether ``output`` is (N, C, h, w) with places in the proportions of the image."""
    if output.ndim != 4 or min(output.shape[2:]) < 2 or max(output.shape[2:]) > LARGEST_SIDE:
        return False
    height, width = output.shape[2:]
    return abs(height / width - x.shape[2] / x.shape[3]) <= 2 / width
