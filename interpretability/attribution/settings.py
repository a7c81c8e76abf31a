"""The options with which commands, snapshots and tables draw a method when nobody says how."""

import inspect
from typing import Any

from torch import Tensor

from interpretability.attribution.base import Attribution
from interpretability.attribution.cam import ActivationMap
from interpretability.attribution.coalitions import CoalitionMethod
from interpretability.attribution.rise import RISE
from interpretability.attribution.segments import Segments, for_pictures
from interpretability.maps import Maps, as_maps

MASKS = 1000  # of RISE, enough for a picture


def picture_options(method: type[Attribution], maps: Maps = None, segments: Segments = None) -> dict[str, Any]:
    """How ``method`` reads layers, and which segments it plays with: 8 × 8 patches unless ``segments`` says."""
    takes = inspect.signature(method).parameters
    options: dict[str, Any] = {}
    if "maps" in takes:
        options["maps"] = maps
    if "segments" in takes:
        options["segments"] = for_pictures if segments is None else segments
    if method is RISE:
        options["n_samples"] = MASKS
    return options


def draws_the_input_only(method: type[Attribution]) -> bool:
    """Whether pictures show it at the input alone: what lies at a layer has no segments of its own."""
    return method.input_only or issubclass(method, CoalitionMethod)


def as_pictured(method: Attribution, x: Tensor, values: Tensor, maps: Maps = None) -> Tensor:
    """What ``method`` gave for ``x``, as maps (N, C, h, w) where a layer's output can be read so; else as it is."""
    if method.layer is None or isinstance(method, ActivationMap):
        return values
    try:
        return as_maps(method.model, method.layer, x, values, maps)
    except ValueError:
        if values.ndim == 2:  # a row of numbers is a picture too
            return values
        raise
