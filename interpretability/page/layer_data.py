"""What a page knows of one layer: detectors, places, effects on each class, and neuron groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interpretability.building_blocks import (
    NeuronGroups,
    activations_and_gradients,
    dictionary_of,
    groups_of,
    layer_to_layer_attribution,
)
from interpretability.maps import Maps
from interpretability.page.detectors import Detectors
from interpretability.page.encoding import pack, sheet

COLUMNS = 10
GROUP_CHANNELS = 5


@dataclass(frozen=True)
class LayerState:
    """One layer: maps (N, C, h, w), their gradients by class (K, N, C, h, w) and their groups (None if silent)."""

    name: str
    maps: Tensor
    gradients: Tensor
    groups: NeuronGroups | None

    @property
    def effects(self) -> Tensor:
        """The effect of each unit on each class (K, N, C, h, w)."""
        return self.gradients * self.maps


def read_layers(
    model: nn.Module, names: Sequence[str], x: Tensor, classes: Sequence[int], n_groups: int, how: Maps = None
) -> list[LayerState]:
    """The states of the layers at images ``x`` (N, C, H, W); ValueError for a layer without places."""
    by_class = [activations_and_gradients(model, names, x, target, how) for target in classes]
    states = []
    for name in names:
        maps = by_class[0][name][0]
        if maps.shape[2] * maps.shape[3] < 2:
            raise ValueError(f"layer {name!r} has no places to point at: it puts out one vector per image")
        gradients = torch.stack([found[name][1] for found in by_class])
        groups = groups_of(maps, name, n_groups) if (maps > 0).any() else None
        states.append(LayerState(name, maps, gradients, groups))
    return states


def layer_entry(state: LayerState, detectors: Detectors, top: int, pictured: int) -> dict[str, object]:
    """The page's data on one layer."""
    found = dictionary_of(state.maps, top)
    leaders = found.leaders(pictured)
    pictures = detectors.channels(state.name, leaders)
    strongest = state.maps[0].flatten(1).argmax(1)
    return {
        "name": state.name,
        "channels": state.maps.shape[1],
        "grid": list(state.maps.shape[2:]),
        "columns": COLUMNS,
        "pictured": leaders,
        "sheet": sheet(pictures, COLUMNS),
        "strongest": pack(strongest),
        "views": [_view(state, found.channels, found.activations, n) for n in range(len(state.maps))],
        "groups": _groups(state, detectors),
    }


def flows(
    model: nn.Module, earlier: LayerState, later: LayerState, x: Tensor, how: Maps = None
) -> dict[str, object] | None:
    """What each group of ``earlier`` adds to each class by way of each group of ``later``: (N, K, G, G')."""
    if earlier.groups is None or later.groups is None:
        return None
    given = earlier.groups.shares()  # (N, G, C, h, w)
    received = later.groups.shares()
    columns = []
    for group in range(received.shape[1]):
        weights = later.gradients * received[:, group]  # (K, N, C', h', w')
        attributed = layer_to_layer_attribution(model, earlier.name, later.name, x, weights, how)
        columns.append(torch.einsum("ngchw,knchw->nkg", given, attributed))
    return pack(torch.stack(columns, dim=3))


def _view(state: LayerState, channels: Tensor, activations: Tensor, n: int) -> dict[str, object]:
    """One image at one layer."""
    effects = state.effects[:, n]  # (K, C, h, w)
    chosen = channels[n].expand(len(effects), *channels[n].shape)
    return {
        "top": pack(channels[n]),
        "activations": pack(activations[n]),
        "effects": pack(effects.gather(1, chosen)),
        "spatial": pack(effects.sum(1)),
        "channel": pack(effects.sum((2, 3))),
    }


def _groups(state: LayerState, detectors: Detectors) -> dict[str, object] | None:
    """The neuron groups of a layer."""
    groups = state.groups
    if groups is None:
        return None
    leading = groups.channels.topk(min(GROUP_CHANNELS, groups.channels.shape[1]), dim=1)
    return {
        "count": len(groups.channels),
        "error": groups.error,
        "sheet": sheet(detectors.directions(state.name, groups.channels), COLUMNS),
        "channels": pack(leading.indices),
        "places": pack(groups.places),
        "effects": pack(torch.stack([groups.effects(effects) for effects in state.effects], dim=1)),  # (N, K, G)
    }
