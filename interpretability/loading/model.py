"""``load_model``: anyone's classifier by a word, as pixels in [0, 1] in and logits (N, K) out."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interpretability.images import ImageReader
from interpretability.loading.libraries import from_timm, from_torchvision, from_transformers
from interpretability.loading.own_code import from_code, from_run
from interpretability.loading.source import Numbers, Source
from interpretability.pixel_model import PixelModel

LIBRARIES = {"timm": from_timm, "transformers": from_transformers}
CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class LoadedModel:
    """A classifier ready to be explained.

    ``model`` takes pixels in [0, 1] and returns logits (N, K), in eval mode; ``class_names`` are its K; ``read`` makes
    an image file (C, H, W) as it wants them; ``input_shape`` is that (C, H, W); ``name`` is what a page may call it.
    """

    model: PixelModel
    class_names: list[str]
    read: Callable[[str | Path], Tensor]
    input_shape: tuple[int, int, int]
    name: str


def load_model(
    spec: str,
    weights: str | Path | None = None,
    *,
    mean: Numbers = None,
    std: Numbers = None,
    size: int | tuple[int, int] | None = None,
    classes: str | Path | Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    output: Callable[[Any], Tensor] | None = None,
    device: str | torch.device = "cpu",
) -> LoadedModel:
    """Load a classifier and what belongs to it.

    Args:
        spec: a torchvision name; ``timm:NAME``; ``transformers:NAME_OR_FOLDER``; ``package.module:name``, a class or
            function that returns a module; a run's folder or checkpoint.
        weights: a file (state dict, Lightning checkpoint, safetensors), or ``DEFAULT`` for a library's own.
        mean: of each channel in pixel units, or one for all; by default the configuration's, else 0.
        std: likewise, else 1.
        size: of its images, a side or height and width; by default the configuration's, else 224.
        classes: K names, or a file with one a line (or JSON).
        arguments: keyword arguments for whatever makes the module.
        output: makes logits of what the module returns; see :class:`~interpretability.pixel_model.PixelModel`.
        device: where the model is put.

    Raises:
        ValueError: in one line: an unknown name, module or scheme, a library that is missing, weights that do not
            fit, a size that the model refuses, another number of class names than it has outputs.
        OSError: a file that is not there.
    """
    source = _source(spec, weights, arguments or {})
    source = source if size is None else _resized(source, (size, size) if isinstance(size, int) else size)
    mean, std = (source.mean if mean is None else mean), (source.std if std is None else std)
    mean, std = (_per_channel(*one, source.input_shape[0]) for one in (("mean", mean), ("std", std)))
    model = PixelModel(source.model, mean, std, output).eval().to(device)
    outputs = _count_outputs(spec, model, source.input_shape)
    return LoadedModel(model, _class_names(classes, source.class_names, outputs), source.read, source.input_shape, spec)


def checkpoint_of(spec: str) -> Path | None:
    """The checkpoint that ``spec`` is: a file, or a run's folder for its best; None for anything else."""
    path = Path(spec)
    if path.is_dir() and (path / "checkpoints").is_dir():
        path = path / "checkpoints" / "best.ckpt"
    if path.suffix == ".ckpt" or path.is_file():
        if not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint {path}")
        return path
    return None


def _source(spec: str, weights: str | Path | None, arguments: Mapping[str, Any]) -> Source:
    scheme, colon, name = spec.partition(":")
    if colon and scheme in LIBRARIES:
        return LIBRARIES[scheme](name, weights, arguments)
    checkpoint = checkpoint_of(spec)
    if checkpoint is not None:
        if weights is not None:
            raise ValueError("weights go with a model's name; a checkpoint brings its own")
        return from_run(checkpoint)
    if CODE.fullmatch(spec):
        return from_code(spec, weights, arguments)
    return from_torchvision(spec, weights, arguments)


def _per_channel(name: str, values: Numbers, channels: int) -> Numbers:
    if values is None or len(values) == channels:
        return values
    if len(values) == 1:
        return [*values] * channels
    raise ValueError(f"{name} needs {channels} numbers, one for each channel; got {list(values)}")


def _resized(source: Source, size: tuple[int, int]) -> Source:
    read = source.read.resized(size) if isinstance(source.read, ImageReader) else ImageReader(size, channels=1)
    return replace(source, read=read, input_shape=(source.input_shape[0], *size))


def _count_outputs(spec: str, model: PixelModel, shape: tuple[int, int, int]) -> int:
    """How many classes the model has; an error that names the size where it takes no such images."""
    some = next((value for value in model.parameters() if value.is_floating_point()), torch.zeros(()))
    try:
        with torch.no_grad():
            logits = model(torch.full((1, *shape), 0.5, dtype=some.dtype, device=some.device))
    except TypeError as error:
        raise ValueError(f"{spec}: {error}") from None
    except (RuntimeError, AssertionError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise ValueError(
            f"{spec} takes no images of {shape[1]} × {shape[2]} pixels and {shape[0]} channels ({reason}); try --size"
        ) from None
    return logits.shape[1]


def _class_names(given: str | Path | Sequence[str] | None, known: Sequence[str] | None, outputs: int) -> list[str]:
    if given is None:
        return list(known) if known is not None and len(known) == outputs else [str(k) for k in range(outputs)]
    names = read_class_names(given) if isinstance(given, str | Path) else [str(name) for name in given]
    if len(names) != outputs:
        where = f"{given}: " if isinstance(given, str | Path) else ""
        raise ValueError(f"{where}there are {len(names)} class names for {outputs} outputs")
    return names


def read_class_names(path: str | Path) -> list[str]:
    """Class names from a file: one a line, a JSON list, or a JSON object from index to name."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if Path(path).suffix != ".json":
            return [line.strip() for line in text.splitlines() if line.strip()]
        names = json.loads(text)
        return [str(names[str(k)]) for k in range(len(names))] if isinstance(names, dict) else [str(n) for n in names]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: neither a name a line nor JSON from index to name ({error})") from None
