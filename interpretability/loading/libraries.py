"""Models of torchvision, timm and transformers, each with what its own configuration says of images and classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import models
from torchvision.transforms import InterpolationMode

from interpretability.images import ImageReader
from interpretability.loading.source import PRETRAINED, USUAL, Arguments, Source, load_file, optional, pair
from interpretability.names import listing, unknown

IMAGENET_CLASSES = models.ResNet18_Weights.DEFAULT.meta["categories"]
OWN_NORMALISATION = ("googlenet", "inception_v3")  # their trained weights want torchvision's extra transform
RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in the order of Pillow's numbers


def from_torchvision(name: str, weights: str | Path | None, arguments: Arguments) -> Source:
    """A torchvision classifier; ``weights`` by torchvision's name of them, by a file, or None for random ones.

    A name of weights is downloaded when it is not in torch's cache.
    """
    names = models.list_models(module=models)
    if name not in names:
        raise unknown("torchvision classifier", name, names)
    default = models.get_model_weights(name).DEFAULT
    known = {entry.name: entry for entry in models.get_model_weights(name)} | {PRETRAINED: default}
    chosen = known.get(str(weights))
    if weights is not None and chosen is None and not Path(weights).is_file():
        raise FileNotFoundError(f"weights {str(weights)!r}: no such file; weights by name: {listing(known)}")
    own = {"transform_input": True} if chosen is None and weights is not None and name in OWN_NORMALISATION else {}
    model = models.get_model(name, weights=chosen, **own | dict(arguments))
    if chosen is None:
        load_file(model, weights)
    preset = (chosen or default).transforms()
    (size,), (resize,) = preset.crop_size, preset.resize_size
    reader = ImageReader((size, size), (resize, resize), interpolation=preset.interpolation)
    return Source(model, preset.mean, preset.std, reader, (3, size, size), IMAGENET_CLASSES)


def from_timm(name: str, weights: str | Path | None, arguments: Arguments) -> Source:
    """A timm model; normalisation, size and classes from its own configuration."""
    timm = optional("timm", "timm")
    if name not in timm.list_models() and name.split(".")[0] not in timm.list_models():
        raise unknown("timm model", name, timm.list_models())
    model = timm.create_model(name, pretrained=weights == PRETRAINED, **arguments)
    load_file(model, weights)
    config = timm.data.resolve_model_data_config(model)
    channels, *size = config["input_size"]
    size = pair(getattr(getattr(model, "patch_embed", None), "img_size", None)) or size  # as img_size= made it
    resize = [int(side / config["crop_pct"]) for side in size]
    reader = ImageReader(
        (size[0], size[1]),
        (resize[0], resize[1]),
        config["crop_mode"] == "squash",
        InterpolationMode(config["interpolation"]) if config["interpolation"] != "random" else USUAL.interpolation,
        channels,
    )
    return Source(model, config["mean"], config["std"], reader, (channels, *size), _timm_classes(timm, model))


def _timm_classes(timm: Any, model: nn.Module) -> Sequence[str] | None:
    if getattr(model, "num_classes", None) == len(IMAGENET_CLASSES):
        return IMAGENET_CLASSES
    subset = timm.data.infer_imagenet_subset(model)
    return timm.data.ImageNetInfo(subset).label_descriptions() if subset else None


def from_transformers(name: str, weights: str | Path | None, arguments: Arguments) -> Source:
    """An image classifier of transformers, by the name of a hub's model or a folder; with its image processor."""
    transformers = optional("transformers", "transformers")
    auto = transformers.AutoModelForImageClassification
    try:
        if weights is None or weights == PRETRAINED:
            model = auto.from_pretrained(name, trust_remote_code=False, **arguments)
        else:
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **arguments)
            model = auto.from_config(config, trust_remote_code=False)
    except Exception as error:  # of the hub, of the configuration, of the file: each library has its own
        raise ValueError(f"transformers:{name} cannot be loaded: {' '.join(str(error).split())[:250]}") from None
    load_file(model, weights)
    names = [str(model.config.id2label[index]) for index in sorted(model.config.id2label)]
    channels = getattr(model.config, "num_channels", 3)
    size = pair(getattr(model.config, "image_size", None)) or USUAL.size
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError):  # a folder without one
        return Source(model, None, None, ImageReader(size, channels=channels), (channels, *size), names)
    reader = _processor_reader(processor, size, channels)
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (None, None)
    return Source(model, mean, std, reader, (channels, *reader.size), names)


def _processor_reader(processor: Any, size: tuple[int, int], channels: int) -> ImageReader:
    """What an image processor's settings say about resizing and cropping."""
    settings = dict(processor.size) if getattr(processor, "do_resize", True) else {}
    shortest, height, width = (settings.get(key) for key in ("shortest_edge", "height", "width"))
    resize = (height, width) if height and width else pair(shortest)
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", None) else {}
    cropped = (crop["height"], crop["width"]) if crop.get("height") else None
    final = cropped or (resize if height and resize else size)
    interpolation = InterpolationMode(RESAMPLING[int(processor.resample)])
    return ImageReader(final, resize, bool(height and not cropped), interpolation, channels)
