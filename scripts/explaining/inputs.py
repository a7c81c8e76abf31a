"""What every subcommand explains: a model, images, classes by index or name."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import console

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
SPLITS = ("test", "val", "train")
BATCH_ROWS = 16
LONGEST_NAME = 150  # bytes, of the 255 that a file's name may have
CHECKPOINT_KEYS = ("state_dict", "hyper_parameters")


@dataclass(frozen=True)
class Inputs:
    """A model in eval mode on pixels in [0, 1], the images (N, C, H, W), their names, and the class names.

    ``labels`` (N,) are the samples' true classes; of image files they are not known.
    """

    model: "nn.Module"
    images: "Tensor"
    names: list[str]
    class_names: list[str]
    labels: "Tensor | None" = None

    def label(self, index: int) -> str:
        """The name of class ``index``."""
        return self.class_names[index] if index < len(self.class_names) else str(index)

    def targets(self, given: Sequence[str]) -> list[int]:
        """Classes given by index or name, as indices."""
        return [class_index(text, self.class_names, self.outputs) for text in given]

    @property
    def outputs(self) -> int:
        """How many outputs the model has."""
        return self.logits(self.images[:1]).shape[1]

    def logits(self, images: "Tensor") -> "Tensor":
        """The model's outputs for ``images``, a few rows at a time."""
        import torch

        with torch.no_grad():
            return torch.cat([self.model(rows) for rows in images.split(BATCH_ROWS)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose model and images."""
    group = parser.add_argument_group("model and images")
    group.add_argument("images", nargs="*", type=Path, help="image files or folders of them; none: samples of --data")
    group.add_argument("--model", required=True, help="a torchvision name, or a checkpoint (or run folder) of ours")
    group.add_argument("--weights", help="for a torchvision name: weights by name, such as DEFAULT, or a local file")
    data = "where samples come from; default: what it was trained on"
    group.add_argument("--data", choices=("digits", "mnist"), help=data)
    group.add_argument("--data-dir", type=Path, help="where the MNIST files are; default: where training found them")
    group.add_argument("--split", choices=SPLITS, default="val", help="which samples")
    group.add_argument("--samples", type=int, default=8, help="how many samples")


def load(args: argparse.Namespace) -> Inputs:
    """The model and images that ``args`` name."""
    from interpretability import images, zoo

    checkpoint = checkpoint_path(args.model)
    if checkpoint is None:
        model, class_names = zoo.load_torchvision(args.model, args.weights)
        if not args.images:
            raise console.UserError(f"{args.model} needs image files: name some, or a folder")
        resize, size = zoo.image_sizes(args.model)
        return Inputs(model, *_stacked(args.images, lambda path: images.load_image(path, size, resize)), class_names)
    if args.weights is not None:
        raise console.UserError("--weights goes with a torchvision name; a checkpoint brings its own weights")
    model = load_checkpoint(checkpoint)
    class_names = [str(digit) for digit in range(model.hparams["num_outputs"])]
    if args.images:
        x, names = _stacked(args.images, images.load_digit)
        check_shape(args.model, model, x)
        return Inputs(model, x, names, class_names)
    choose_data(args, checkpoint)
    x, names, labels = samples(args)
    check_shape(args.model, model, x)
    return Inputs(model, x, names, class_names, labels)


def checkpoint_path(name: str) -> Path | None:
    """The checkpoint that ``name`` is: a file, or a run's folder for its best; None for a plain name."""
    path = Path(name)
    if path.is_dir() and (path / "checkpoints").is_dir():
        path = path / "checkpoints" / "best.ckpt"
    if path.suffix == ".ckpt" or path.is_file():
        if not path.is_file():
            raise console.UserError(f"there is no checkpoint {path}")
        return path
    return None


def load_checkpoint(path: Path) -> Any:
    """A ``LitCNN`` or ``LitMLP`` from its checkpoint, in eval mode on the CPU; which one, its weights' names tell."""
    from interpretability.plain_files import load_plain
    from lit_models import LitCNN, LitMLP

    content = load_plain(path)
    weights, settings = (content.get(key) if isinstance(content, dict) else None for key in CHECKPOINT_KEYS)
    if not isinstance(weights, dict) or not isinstance(settings, dict):
        raise console.UserError(f"{path}: not a checkpoint of a run; one holds {', '.join(CHECKPOINT_KEYS)}")
    kinds = {"head.weight": LitCNN, "output.weight": LitMLP}
    kind = next((cls for name, cls in kinds.items() if name in weights), None)
    if kind is None:
        raise console.UserError(f"{path}: neither a LitCNN nor a LitMLP")
    try:
        check_settings(kind, settings, weights)
        return kind.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()
    except Exception as error:  # settings of the wrong kind fail anywhere in the model
        reason = console.shorten(" ".join(str(error).partition(" If you trust")[0].split()), 250)
        raise console.UserError(f"{path}: its weights or settings do not fit {kind.__name__}: {reason}") from None


def check_settings(kind: Any, settings: dict[str, Any], weights: dict[str, Any]) -> None:
    """Raise where the model of these settings would have other weights; it is made without memory, however large."""
    import inspect

    import torch

    known = inspect.signature(kind.__init__).parameters
    with torch.device("meta"):
        wanted = kind(**{name: value for name, value in settings.items() if name in known}).state_dict()
    for name in sorted(wanted.keys() | weights.keys()):
        there, due = (str(tuple(found[name].shape)) if name in found else "absent" for found in (weights, wanted))
        if there != due:
            raise ValueError(f"{name} is {there} in the file, {due} by its settings")


def check_shape(name: str, model: Any, x: "Tensor") -> None:
    """Raise where the model was made for inputs of another shape than ``x``."""
    wanted, given = tuple(model.hparams["input_shape"]), tuple(x.shape[1:])
    if wanted != given:
        raise console.UserError(f"{name}: takes inputs of shape {wanted}; the images are {given}")


def choose_data(args: argparse.Namespace, checkpoint: Path) -> None:
    """Fill in ``--data`` and ``--data-dir`` from the data that the checkpoint was trained on."""
    from datamodules.mnist_files import raw_folder
    from interpretability.plain_files import load_plain

    stored = load_plain(checkpoint).get("datamodule_hyper_parameters")
    folder = stored.get("data_dir") if isinstance(stored, dict) else None
    args.data = args.data or ("digits" if folder is None else "mnist")
    if args.data_dir is None:  # a folder that somebody else's checkpoint names is read, but never made
        there = isinstance(folder, str) and raw_folder(folder).is_dir()
        args.data_dir = Path(folder if there else "data")


def samples(args: argparse.Namespace) -> tuple["Tensor", list[str], "Tensor"]:
    """Samples of a datamodule, the same every time, what to call them, and their classes."""
    from datamodules import DigitsDataModule, MNISTDataModule

    if args.samples < 1:
        raise console.UserError(f"--samples must be at least 1; got {args.samples}")
    data = DigitsDataModule() if args.data == "digits" else MNISTDataModule(data_dir=args.data_dir)
    x, t = data.probe_batch(args.split, args.samples)
    return x, [f"{args.data}-{args.split}-{n}-is-{int(label)}" for n, label in enumerate(t)], t


def spatial_layers(model: "nn.Module", x: "Tensor", n: int) -> list[str]:
    """At most ``n`` layers to look into: the last block of each of the ``n`` coarsest resolutions, finest first."""
    import torch

    from interpretability.layers import capture

    last: dict[tuple[int, ...], str] = {}
    for name in _blocks(getattr(model, "model", model)):
        try:
            with torch.no_grad(), capture(model, [name]) as outputs:
                classes = model(x).shape[1]
        except ValueError:  # it does not run, runs twice or gives no tensor
            continue
        shape = outputs[name].shape
        normalised_input, class_maps = shape == x.shape, shape[1] == classes
        if len(shape) != 4 or shape[2] * shape[3] == 1 or normalised_input or class_maps:
            continue
        if 0.5 <= shape[2] * x.shape[3] / (shape[3] * x.shape[2]) <= 2:  # else its axes are not (N, C, h, w)
            last[tuple(shape[2:])] = name
    return list(last.values())[-n:]


def _blocks(model: "nn.Module", prefix: str = "", depth: int = 2) -> Iterator[str]:
    """The names of the modules that a model lines up, looking into its sequences of modules; no dropout."""
    from torch import nn

    for name, module in model.named_children():
        if isinstance(module, (nn.Sequential, nn.ModuleList)) and depth > 1:
            yield from _blocks(module, f"{prefix}{name}.", depth - 1)
        elif not isinstance(module, (nn.Dropout, nn.Identity)):
            yield f"{prefix}{name}"


def class_index(text: str, class_names: Sequence[str], outputs: int) -> int:
    """A class by index or by name, if need be in another case; an error that names the nearest where there is none."""
    text = text.strip()
    matches = [index for index, name in enumerate(class_names) if name == text]
    matches = matches or [index for index, name in enumerate(class_names) if name.lower() == text.lower()]
    if len(matches) == 1:
        return matches[0]
    if len(matches) > 1:
        raise console.UserError(f"class {text!r} is ambiguous: use its index, one of {', '.join(map(str, matches))}")
    if text.isdecimal():
        if int(text) >= outputs:
            raise console.UserError(f"class {text} is out of range: the model has {outputs} outputs")
        return int(text)
    raise console.nearest(text, class_names, "class")


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as the images in them."""
    files: list[Path] = []
    for path in paths:
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else [path]
        if not found:
            raise console.UserError(f"{path}: no images in this folder")
        files += found
    return files


def _stacked(paths: Sequence[Path], read: Any) -> tuple["Tensor", list[str]]:
    import torch

    files = image_files(paths)
    return torch.stack([read(path) for path in files]), distinct([presentable(path.stem) for path in files])


def presentable(text: str) -> str:
    """A file's name as it can stand in a title, on a terminal and in the names of other files."""
    shown = "".join(c if c.isprintable() else "_" for c in text)
    return shown.encode()[:LONGEST_NAME].decode(errors="ignore")


def distinct(names: Sequence[str]) -> list[str]:
    """``names``, numbered where one occurs again, so that what is written under them does not collide."""
    given: dict[str, None] = {}
    for name in names:
        variants = chain([name], (f"{name}-{n}" for n in count(2)))
        given[next(variant for variant in variants if variant not in given)] = None
    return list(given)
