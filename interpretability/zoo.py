"""torchvision's ImageNet classifiers by name, with weights by name or from a local file."""

from pathlib import Path

import torch
from torch import nn
from torchvision import models
from torchvision.models import _meta

from interpretability.names import listing, unknown
from interpretability.pixel_model import PixelModel
from interpretability.plain_files import load_plain

OWN_NORMALISATION = ("googlenet", "inception_v3")  # their trained weights want torchvision's extra transform


def load_torchvision(name: str, weights: str | Path | None = None) -> tuple[PixelModel, list[str]]:
    """A torchvision classifier on pixels in [0, 1], in eval mode, and the names of its classes.

    Args:
        name: as torchvision calls it, such as ``squeezenet1_0``.
        weights: a torchvision weights name (``DEFAULT``, ``IMAGENET1K_V1``; downloaded when it is not in
            torch's cache), a local file with a state dict, or None for random weights.

    Raises:
        ValueError: an unknown name, or a file that holds no state dict, or one that does not fit.
        OSError: weights that are neither a known name nor a file, or cannot be downloaded.
    """
    if name not in classifiers():
        raise unknown("torchvision classifier", name, classifiers())
    known = {entry.name: entry for entry in models.get_model_weights(name)} | {"DEFAULT": _default(name)}
    if weights is None or str(weights) in known:
        model = models.get_model(name, weights=known.get(str(weights)))
    else:
        if not Path(weights).is_file():
            raise FileNotFoundError(f"weights {str(weights)!r}: no such file; weights by name: {listing(known)}")
        options = {"transform_input": True} if name in OWN_NORMALISATION else {}
        model = models.get_model(name, weights=None, **options)
        load_state_dict(model, weights)
    preset = known.get(str(weights), _default(name)).transforms()
    return PixelModel(model, preset.mean, preset.std).eval(), list(_meta._IMAGENET_CATEGORIES)


def classifiers() -> list[str]:
    """The names :func:`load_torchvision` knows."""
    return models.list_models(module=models)


def image_sizes(name: str) -> tuple[int, int]:
    """What the classifier's own transform resizes the shorter side to, and crops out of that."""
    preset = _default(name).transforms()
    return preset.resize_size[0], preset.crop_size[0]


def load_state_dict(model: nn.Module, path: str | Path) -> None:
    """Load the state dict in the file ``path`` into ``model``; ValueError where it does not fit."""
    state = load_plain(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path}: holds no state dict (tensors by parameter name)")
    wanted = model.state_dict()
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}  # files of old do not have them
    for what, names in (
        ("lacks", wanted.keys() - state.keys() - counters),
        ("has unknown", state.keys() - wanted.keys()),
        ("has other shapes for", {key for key in wanted if key in state and wanted[key].shape != state[key].shape}),
    ):
        if names:
            raise ValueError(f"{path}: does not fit {type(model).__name__}: it {what} {listing(sorted(names))}")
    model.load_state_dict(state, strict=False)


def _default(name: str):
    return models.get_model_weights(name).DEFAULT
