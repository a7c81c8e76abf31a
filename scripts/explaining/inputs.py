"""What every subcommand explains: a model, images, classes by index or name."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import console
import devices

if TYPE_CHECKING:
    from torch import Tensor, nn

    from interpretability.loading import LoadedModel
    from interpretability.maps import Maps

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
SPLITS = ("test", "val", "train")
BATCH_ROWS = 16
LONGEST_NAME = 150  # bytes, of the 255 that a file's name may have
LARGEST_SIDE = 4096


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

        from interpretability.devices import device_of, full_precision

        device = device_of(self.model)
        with torch.no_grad(), full_precision():
            return torch.cat([self.model(rows.to(device)).cpu() for rows in images.split(BATCH_ROWS)])


def add_model_arguments(group: "argparse._ArgumentGroup") -> None:
    """The options that choose a model."""
    kinds = "a torchvision name, timm:NAME, transformers:NAME, package.module:name, or a run's folder or checkpoint"
    group.add_argument("--model", required=True, help=kinds)
    group.add_argument("--weights", help="a file (state dict, Lightning checkpoint, safetensors), or DEFAULT")
    arguments = "keyword arguments of what makes the model, as YAML: '{num_classes: 5}'"
    group.add_argument("--model-args", metavar="YAML", help=arguments)
    for name in ("mean", "std"):
        text = f"{name} of the channels that the model expects, such as 0.5 or 0.5,0.4,0.4 (default: its own)"
        group.add_argument(f"--{name}", type=numbers, metavar="X[,X,X]", help=text)
    size = "side of the images in pixels, or height x width (default: the model's own)"
    group.add_argument("--size", type=sides, metavar="SIDE[xSIDE]", help=size)
    group.add_argument("--classes", type=Path, metavar="FILE", help="class names, one a line or as JSON")
    layouts = "how layers lie, where the model does not tell: channels_first, channels_last or tokens"
    group.add_argument("--maps", metavar="LAYOUT", help=layouts)
    devices.add_argument(group)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose model and images."""
    group = parser.add_argument_group("model and images")
    group.add_argument("images", nargs="*", type=Path, help="image files or folders of them; none: samples of --data")
    add_model_arguments(group)
    data = "where samples come from; default: what it was trained on"
    group.add_argument("--data", choices=("digits", "mnist"), help=data)
    group.add_argument("--data-dir", type=Path, help="where the MNIST files are; default: where training found them")
    group.add_argument("--split", choices=SPLITS, default="val", help="which samples")
    group.add_argument("--samples", type=int, default=8, help="how many samples")


def load(args: argparse.Namespace) -> Inputs:
    """The model and images that ``args`` name."""
    from interpretability.loading import checkpoint_of

    loaded = load_named(args)
    if args.images:
        return Inputs(loaded.model, *stacked(args.images, loaded.read), loaded.class_names)
    checkpoint = checkpoint_of(args.model)
    if checkpoint is None and args.data is None:
        raise console.UserError(f"{args.model} needs image files: name some, or a folder")
    choose_data(args, checkpoint)
    x, names, labels = samples(args)
    if tuple(x.shape[1:]) != loaded.input_shape:
        raise console.UserError(
            f"{args.model}: takes inputs of shape {loaded.input_shape}; the images are {tuple(x.shape[1:])}"
        )
    return Inputs(loaded.model, x, names, loaded.class_names, labels)


def load_named(args: argparse.Namespace) -> "LoadedModel":
    """The model that ``args`` name."""
    from interpretability.loading import load_model

    given = {"mean": args.mean, "std": args.std, "size": args.size, "classes": args.classes}
    given["device"] = devices.chosen(args.device)
    return load_model(args.model, args.weights, **given, arguments=model_arguments(args.model_args))


def numbers(text: str) -> list[float]:
    """Numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, nor numbers with commas between them") from None


def sides(text: str) -> tuple[int, int]:
    """A side, or height and width as 224x160."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and 1 <= int(part) <= LARGEST_SIDE for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a side from 1 to {LARGEST_SIDE}, nor two such as 224x160")
    return int(parts[0]), int(parts[-1])


def model_arguments(text: str | None) -> dict[str, Any]:
    """What ``--model-args`` holds."""
    import yaml

    try:
        found = yaml.safe_load(text or "{}")
    except yaml.YAMLError as error:
        raise console.UserError(f"--model-args is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise console.UserError(f"--model-args must be a map such as '{{num_classes: 5}}', not {text!r}")
    return found


def choose_data(args: argparse.Namespace, checkpoint: Path | None) -> None:
    """Fill in ``--data`` and ``--data-dir`` from the data that the checkpoint was trained on."""
    from datamodules.mnist_files import raw_folder
    from interpretability.plain_files import load_plain

    stored = None if checkpoint is None else load_plain(checkpoint).get("datamodule_hyper_parameters")
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


def training_images(args: argparse.Namespace, n: int) -> "tuple[Tensor, Tensor] | None":
    """``n`` training images and their classes, of --data or of a run's own data; None where those are not known."""
    from interpretability.loading import checkpoint_of

    checkpoint = checkpoint_of(args.model)
    if args.data is None and checkpoint is None:
        return None
    chosen = argparse.Namespace(data=args.data, data_dir=args.data_dir)
    choose_data(chosen, checkpoint)
    from datamodules import DigitsDataModule, MNISTDataModule

    if chosen.data == "mnist" and not raw_there(chosen.data_dir):
        return None
    data = DigitsDataModule() if chosen.data == "digits" else MNISTDataModule(data_dir=chosen.data_dir)
    x, t = data.probe_batch("train", n)
    return x, t


def raw_there(folder: Path) -> bool:
    """Whether MNIST is in the folder; nothing is downloaded for this."""
    from datamodules.mnist_files import raw_folder

    return raw_folder(folder).is_dir()


def spatial_layers(model: "nn.Module", x: "Tensor", n: int, maps: "Maps" = None) -> list[str]:
    """At most ``n`` layers to look into, early to late; none where the model has no layer with places."""
    from interpretability.choice import choose_layers

    try:
        return choose_layers(model, x, n, maps)
    except ValueError:
        return []


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


def stacked(paths: Sequence[Path], read: Any) -> tuple["Tensor", list[str]]:
    """Images of files and folders (N, C, H, W), and their names."""
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
