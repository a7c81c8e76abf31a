"""What the network looks at, for the same few images, as it learns."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.figures import ORANGE, PictureCallback, displayable, due, log_figure, picture_path, write_arrays
from callbacks.samples import check_classes, class_names, explained, fixed_samples
from interpretability.attribution import METHODS, Attribution
from interpretability.attribution.settings import as_pictured, draws_the_input_only, picture_options
from interpretability.layers import find_layer
from interpretability.maps import Maps
from interpretability.names import unknown
from interpretability.outputs import logits_of

MOST_KEPT = 64  # pixels a side of the maps that are kept beside a picture


class SaliencySnapshots(PictureCallback):
    """Draw attributions of the true class every few epochs, for images that stay the same.

    One picture a time: the images with label and prediction, below them a row of maps for each method and
    layer. A row's scale is the same for all images and all epochs, unless a later epoch needs twice as much.
    In ``trainer.validate`` and ``trainer.test`` it draws once, at the end.

    Args:
        methods: names from ``interpretability.attribution.METHODS``.
        layers: dotted layer names; None is the input. Methods that need a layer skip None.
        n_images: how many images.
        every_n_epochs: how often.
        batch: the images (N, C, H, W) as the model takes them, with labels (N,); by default from the data.
        maps: how to read layers as maps, where the model does not tell; see :mod:`interpretability.maps`.
    """

    def __init__(
        self,
        methods: Sequence[str] = ("Saliency",),
        layers: Sequence[str | None] = (None,),
        n_images: int = 8,
        every_n_epochs: int = 1,
        batch: tuple[Tensor, Tensor] | None = None,
        maps: Maps = None,
    ) -> None:
        super().__init__()
        for name in methods:
            if name not in METHODS:
                raise unknown("method", name, METHODS)
        if not methods or not layers:
            raise ValueError("methods and layers must each name at least one")
        if n_images < 1 or every_n_epochs < 1:
            raise ValueError(f"n_images and every_n_epochs must be at least 1, not {n_images} and {every_n_epochs}")
        self.methods, self.layers = tuple(methods), tuple(layers)
        self.n_images, self.every_n_epochs, self.batch = n_images, every_n_epochs, batch
        self.maps = maps
        self._attributions: dict[str, Attribution] = {}
        self._samples: tuple[Tensor, Tensor] | None = None
        self._scales: dict[str, float] = {}

    @property
    def state_key(self) -> str:
        """Apart for each choice of methods and layers, so that several can be used together."""
        return self._generate_state_key(methods=self.methods, layers=self.layers)

    def state_dict(self) -> dict[str, Any]:
        """The scale of each row, so that a resumed run draws on the same ones."""
        return {"scales": dict(self._scales)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the scales of the resumed run."""
        self._scales = dict(state_dict["scales"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse, before any training, layers that do not exist and methods that take none of those named."""
        for layer in self.layers:
            if layer is not None:
                find_layer(pl_module, layer)
        self._samples = None
        self._attributions = {}
        for method in self.methods:
            self._attributions |= make_attributions(pl_module, method, self.layers, self.maps)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw on the way."""
        if due(trainer, self.every_n_epochs):
            self._draw(trainer, pl_module, "val", self._tag(trainer), trainer.current_epoch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw once, in ``trainer.validate``."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._draw(trainer, pl_module, "val", f"validate/{self._tag(trainer)}", None)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw once, with test images."""
        self._draw(trainer, pl_module, "test", f"test/{self._tag(trainer)}", None)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the module and the images."""
        self._attributions, self._samples = {}, None

    def _tag(self, trainer: Trainer) -> str:
        """``saliency``, or ``saliency_2`` for the second of these callbacks: none overwrites another's pictures."""
        ours = [callback for callback in trainer.callbacks if isinstance(callback, SaliencySnapshots)]  # type: ignore[attr-defined]
        place = ours.index(self) + 1
        return "saliency" if place == 1 else f"saliency_{place}"

    def _draw(self, trainer: Trainer, pl_module: LightningModule, split: str, tag: str, epoch: int | None) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        with self.harmless(trainer, pl_module):
            x, y = self._images(trainer, pl_module, split)
            with torch.no_grad():
                pl_module.eval()
                output = pl_module(x)
            logits, model = logits_of(output), explained(pl_module, output)
            check_classes(logits, y)
            probabilities = logits.float().softmax(1).cpu().numpy()
            rows = {}
            for name, attribution in self._attributions.items():
                torch.manual_seed(0)  # the same noise every time; the random state is put back afterwards
                attribution.model = model
                rows[name] = one_map(as_pictured(attribution, x, attribution(x, y), self.maps)).float().cpu().numpy()
                self._scales[name] = max(self._scales.get(name, 0.0), next_power_of_two(rows[name]))
            names = class_names(trainer, probabilities.shape[1])
            title = "What speaks for the true class" + ("" if epoch is None else f", epoch {epoch}")
            figure = draw_snapshots(
                x.float().cpu().numpy(), y.cpu().numpy(), probabilities, rows, self._scales, names, title
            )
            log_figure(trainer, tag, figure, epoch)
            arrays = kept_arrays(x.float().cpu(), y.cpu().numpy(), probabilities, rows, self._scales, names)
            write_arrays(picture_path(trainer, tag, epoch).with_suffix(".npz"), arrays)

    def _images(self, trainer: Trainer, pl_module: LightningModule, split: str) -> tuple[Tensor, Tensor]:
        """The fixed images and labels: those given, else of ``split``, else of the training data."""
        if self._samples is None:
            samples = self.batch
            for name in (split, "train"):
                samples = samples or fixed_samples(trainer, pl_module, name, self.n_images)
            if samples is None or not len(samples[0]):
                raise ValueError("there are no images to draw")
            x, y = samples
            self._samples = x[: self.n_images].to(pl_module.device), y[: self.n_images].to(pl_module.device)
        return self._samples


def make_attributions(
    pl_module: LightningModule, method: str, layers: Sequence[str | None], maps: Maps = None
) -> dict[str, Attribution]:
    """The method at each layer that it takes, by row label; its own error where it takes none."""
    found: dict[str, Attribution] = {}
    problem: Exception | None = None
    for layer in layers:
        try:
            if layer is not None and draws_the_input_only(METHODS[method]):
                raise ValueError("explains the input: name None among the layers")
            options = picture_options(METHODS[method], maps)
            found[f"{method}\n{layer or 'pixels'}"] = METHODS[method](pl_module, layer, **options)
        except (TypeError, ValueError) as error:
            problem = error
    if not found and problem is not None:
        raise ValueError(f"{method}: {problem}") from problem
    return found


def one_map(attribution: Tensor) -> Tensor:
    """An attribution (N, C, h, w) as one map (N, h, w): of each place the channel that says most, with its sign.

    What has no places, (N, D), becomes a row.
    """
    if attribution.ndim != 4:
        return attribution.flatten(1)[:, None, :]
    strongest = attribution.abs().argmax(1, keepdim=True)
    return attribution.gather(1, strongest).squeeze(1)


def kept_arrays(
    x: Tensor,
    labels: np.ndarray,
    probabilities: np.ndarray,
    rows: dict[str, np.ndarray],
    scales: dict[str, float],
    names: list[str],
) -> dict[str, np.ndarray]:
    """What a picture shows, as small arrays: images (N, C, h, w) in [0, 1] and ``row/…`` (N, h, w) with its scale."""
    images = [torch.from_numpy(np.atleast_3d(displayable(image))).permute(2, 0, 1) for image in x.numpy()]
    kept = {
        "images": shrunk(torch.stack(images).float()).numpy().astype(np.float16),
        "labels": labels,
        "probabilities": probabilities.astype(np.float32),
        "names": np.array(names),
    }
    for name, maps in rows.items():
        kept[f"row/{name}"] = shrunk(torch.from_numpy(maps)[:, None])[:, 0].numpy()
        kept[f"scale/{name}"] = np.array(scales[name])
    return kept


def shrunk(images: Tensor, side: int = MOST_KEPT) -> Tensor:
    """Images (N, C, H, W) of at most ``side`` pixels a side, by means of areas."""
    size = [min(side, length) for length in images.shape[2:]]
    return images if size == list(images.shape[2:]) else torch.nn.functional.interpolate(images, size, mode="area")


def next_power_of_two(maps: np.ndarray, share: float = 0.995) -> float:
    """The least power of two that holds nearly all values (0 for maps of zeros)."""
    largest = float(np.quantile(np.abs(maps), share)) or float(np.abs(maps).max())
    return 2.0 ** math.ceil(math.log2(largest)) if largest > 0 and math.isfinite(largest) else 0.0


def draw_snapshots(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    rows: dict[str, np.ndarray],
    scales: dict[str, float],
    names: list[str],
    title: str,
) -> Figure:
    """Images (N, C, H, W) on top, a row of maps (N, h, w) for each method and layer with its colour bar."""
    n = len(images)
    figure = Figure(figsize=(1.45 * n + 1.6, 1.6 * (len(rows) + 1) + 0.7), layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(len(rows) + 1, 1, squeeze=False)[:, 0]
    for cell in axes:
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
    centres = show_strip(axes[0], [displayable(image) for image in images], cmap="gray", vmin=0, vmax=1)
    for centre, label, p in zip(centres, labels, probabilities):
        label_image(axes[0], centre, int(label), p, names)
    axes[0].set_ylabel("image", fontsize=9)
    for cell, (name, maps) in zip(axes[1:], rows.items()):
        scale = scales[name] or 1.0
        signed = bool((maps < 0).any())
        lowest = -scale if signed else 0.0
        show_strip(cell, list(maps), cmap="RdBu_r" if signed else "inferno", vmin=lowest, vmax=scale)
        cell.set_ylabel(name, fontsize=9)
        bar = figure.colorbar(cell.images[0], ax=cell, ticks=sorted({lowest, 0.0, scale}), pad=0.01, aspect=12)
        bar.ax.tick_params(labelsize=8)
    return figure


def show_strip(axes: Axes, pictures: list[np.ndarray], **look: Any) -> list[float]:
    """Pictures (h, w) or (h, w, 3) side by side as one image, which is fast; returns the x of their middles."""
    h, w = pictures[0].shape[:2]
    gap = np.full((h, max(1, round(w / 14)), *pictures[0].shape[2:]), np.nan if pictures[0].ndim == 2 else 1.0)
    parts = [part for picture in pictures for part in (picture, gap)][:-1]
    axes.imshow(np.concatenate(parts, axis=1), aspect="equal" if h > 1 else "auto", interpolation="nearest", **look)
    return [index * (w + gap.shape[1]) + (w - 1) / 2 for index in range(len(pictures))]


def label_image(axes: Axes, x: float, label: int, probabilities: np.ndarray, names: list[str]) -> None:
    """True and predicted class above the image whose middle is ``x``, in orange where they differ."""
    predicted = int(probabilities.argmax())
    text = f"{names[label][:14]} → {names[predicted][:14]}\n{probabilities[predicted]:.0%}"
    color = "black" if predicted == label else ORANGE
    where = axes.get_xaxis_transform()
    axes.text(x, 1.03, text, transform=where, ha="center", va="bottom", fontsize=9, color=color, parse_math=False)
