"""Models of the user's own code, and runs of this project."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interpretability.images import ImageReader, load_digit
from interpretability.loading.source import USUAL, Arguments, Source, load_file, pair
from interpretability.names import unknown
from interpretability.plain_files import load_plain

DIGIT = (1, 28, 28)
LIGHTNINGS_BUILDER = "lightning.pytorch.cli.instantiate_module"
CHECKPOINT_KEYS = ("state_dict", "hyper_parameters")
OF_RUNS = {"head.weight": "lit_models:LitCNN", "output.weight": "lit_models:LitMLP"}  # a weight's name tells which


def from_code(spec: str, weights: str | Path | None, arguments: Arguments) -> Source:
    """``package.module:name``: a class or function of the user's own that returns a module.

    A LightningModule's class with a ``.ckpt`` is loaded by its ``load_from_checkpoint``.
    """
    factory = _imported(spec)
    try:
        if weights is not None and hasattr(factory, "load_from_checkpoint") and Path(weights).suffix == ".ckpt":
            _check_builder(factory, weights)
            model = factory.load_from_checkpoint(weights, map_location="cpu", weights_only=True, **arguments)
            weights = None
        else:
            model = factory(**arguments)
    except TypeError as error:
        raise ValueError(f"{spec} cannot be called with {dict(arguments)}: {error}; see --model-args") from None
    except (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError) as error:  # of the user's own code
        raise ValueError(f"{spec} failed with {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} returned a {type(model).__name__}, not a torch.nn.Module")
    load_file(model, weights)
    shape = input_shape_of(model)
    reader = load_digit if shape == DIGIT else ImageReader(shape[1:], channels=shape[0])
    if shape[1:] == USUAL.size:
        reader = ImageReader(USUAL.size, USUAL.resize, channels=shape[0])
    return Source(model, None, None, reader, shape, getattr(model, "class_names", None))


def from_run(path: Path) -> Source:
    """A checkpoint of a run of this project's ``LitCNN`` or ``LitMLP``; any other class has to be named."""
    content = load_plain(path)
    weights, settings = (content.get(k) if isinstance(content, dict) else None for k in CHECKPOINT_KEYS)
    if not isinstance(weights, dict) or not isinstance(settings, dict):
        raise ValueError(f"{path}: not a checkpoint of a run; one holds {', '.join(CHECKPOINT_KEYS)}")
    spec = next((spec for name, spec in OF_RUNS.items() if name in weights), None)
    if spec is None:
        raise ValueError(
            f"{path}: neither a LitCNN nor a LitMLP; name its class: --model package.module:Class --weights {path}"
        )
    try:
        _check_settings(_imported(spec), settings, weights)
        source = from_code(spec, path, {})
    except Exception as error:  # settings of the wrong kind fail anywhere in the model
        reason = " ".join(str(error).partition(" If you trust")[0].split())[:250]
        raise ValueError(f"{path}: its weights or settings do not fit {spec.partition(':')[2]}: {reason}") from None
    if len(expected := tuple(source.model.hparams["input_shape"])) != 3:  # type: ignore[index]
        raise ValueError(f"{path}: takes inputs of shape {expected}, not images (C, H, W)")
    return source


def _check_settings(kind: Callable[..., Any], settings: dict[str, Any], weights: dict[str, Any]) -> None:
    """Raise where the model of these settings would have other weights; it is made without memory, however large."""
    known = inspect.signature(kind).parameters
    with torch.device("meta"):
        wanted = kind(**{name: value for name, value in settings.items() if name in known}).state_dict()
    for name in sorted(wanted.keys() | weights.keys()):
        there, due = (str(tuple(found[name].shape)) if name in found else "absent" for found in (weights, wanted))
        if there != due:
            raise ValueError(f"{name} is {there} in the file, {due} by its settings")


def input_shape_of(model: nn.Module) -> tuple[int, int, int]:
    """The (C, H, W) that a model says it takes by ``input_shape`` or ``image_size``; else 224 × 224 pixels."""
    settings = getattr(model, "hparams", {})
    shape = getattr(model, "input_shape", None) or settings.get("input_shape")
    if shape is not None and len(shape) == 3:
        return (int(shape[0]), int(shape[1]), int(shape[2]))
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = first.in_channels if first is not None and first.in_channels in (1, 3) else 3
    sides = (pair(getattr(model, name, None)) for name in ("image_size", "img_size"))
    return (channels, *next(filter(None, sides), USUAL.size))


def _imported(spec: str) -> Callable[..., Any]:
    """What ``package.module:name`` names, also in the current folder."""
    module_name, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise ValueError(f"{module_name} needs {error.name}, which is not installed") from None
        raise ValueError(
            f"there is no module {module_name!r}, neither in the current folder nor installed;"
            " a model is a torchvision name, timm:NAME, transformers:NAME or package.module:name"
        ) from None
    except Exception as error:
        raise ValueError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(found := getattr(module, name, None)):
        raise unknown(f"class or function in {module_name}", name, [k for k, v in vars(module).items() if callable(v)])
    return found


def _check_builder(factory: Any, path: str | Path) -> None:
    """Raise where a checkpoint asks to be built by something else than the class that the user named."""
    content = load_plain(path)
    settings = content.get("hyper_parameters") if isinstance(content, dict) else None
    settings = settings if isinstance(settings, dict) else {}
    asked = settings.get("_instantiator", LIGHTNINGS_BUILDER)
    if asked == LIGHTNINGS_BUILDER and "_class_path" in settings:
        module, _, name = (asked := str(settings["_class_path"])).rpartition(".")
        if getattr(sys.modules.get(module), name, None) is factory:  # by whichever of its names; nothing is imported
            return
    if asked != LIGHTNINGS_BUILDER:
        wanted = f"{factory.__module__}.{factory.__qualname__}"
        raise ValueError(f"{path} asks to be built by {asked[:60]}, not by {wanted}; nothing in it was run")
