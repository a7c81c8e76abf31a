"""The callback that watches how a network's features separate the classes, epoch by epoch."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from PIL import Image
from torch import Tensor

from callbacks.figures import (
    PictureCallback,
    copy_file,
    due,
    log_pixels,
    picture_name,
    run_directory,
    tensorboard_directories,
)
from callbacks.samples import check_classes, class_names, classify, fixed_samples
from callbacks.tsne.client import Job, Worker
from callbacks.tsne.projector import add_entry, write_sprite
from interpretability.layers import capture, find_layer

PIXELS = "pixels"  # the name of the layer None
SCALARS = ("kl_divergence", "trustworthiness", "knn_embedding", "knn_features")


class TSNELogger(PictureCallback):
    """Lay out training and held-out images by t-SNE every few epochs, in a process beside the training.

    The same images every time, balanced over the classes, half of them held out: validation images while
    fitting, test images in the test stage. Each layout starts from the last one, so that pictures compare.
    It leaves, for each layer and epoch: a picture, coloured by label and by prediction, in ``figures/tsne/``
    and in TensorBoard; the coordinates beside it (``.npz``); KL divergence, trustworthiness and
    nearest-neighbour accuracy as scalars; an entry in TensorBoard's projector; at the end an animation.

    Args:
        layer: dotted name of the layer whose output is embedded, or several; None: the raw pixels.
        n_samples: images in all, at most.
        every_n_epochs: how often.
        perplexity: of the t-SNE; less where there are few samples.
        time_budget: seconds after which a single layout is given up.
        batch_size: images in a forward pass.
        seed: of the t-SNE.
    """

    def __init__(
        self,
        layer: str | Sequence[str | None] | None = None,
        n_samples: int = 1000,
        every_n_epochs: int = 1,
        perplexity: float = 30.0,
        time_budget: float = 60.0,
        batch_size: int = 250,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {"n_samples": n_samples, "every_n_epochs": every_n_epochs, "batch_size": batch_size}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        for name, amount in {"perplexity": perplexity, "time_budget": time_budget}.items():
            if not amount > 0:
                raise ValueError(f"{name} must be above 0, not {amount}")
        self.layers: tuple[str | None, ...] = (layer,) if layer is None or isinstance(layer, str) else tuple(layer)
        self.n_samples, self.every_n_epochs, self.batch_size = n_samples, every_n_epochs, batch_size
        self.perplexity, self.seed = perplexity, seed
        self._worker = Worker(time_budget)
        self._layouts: dict[str, Tensor] = {}
        self._samples: tuple[Tensor, Tensor, np.ndarray] | None = None
        self._training: tuple[Tensor, Tensor] | None = None
        self._sprites: dict[Path, tuple[int, int]] = {}

    @property
    def state_key(self) -> str:
        """Apart for each set of layers, so that several of these callbacks can be used together."""
        return self._generate_state_key(layers=self.layers)

    def state_dict(self) -> dict[str, Any]:
        """The last layouts, so that a resumed run goes on from them."""
        return {"layouts": dict(self._layouts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the layouts of the run that is resumed."""
        self._layouts = dict(state_dict["layouts"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a layer that does not exist before any training; ValueError lists the valid names."""
        for layer in self.layers:
            if layer is not None:
                find_layer(pl_module, layer)
        self._samples, self._sprites = None, {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the worker import its libraries while the first epoch runs."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with self.harmless(trainer, pl_module):
                self._worker.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand over this epoch's features; pick up the layouts that are done."""
        if trainer.is_global_zero and due(trainer, self.every_n_epochs):
            self._submit(trainer, pl_module, "val", trainer.current_epoch)
            self._collect(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the last layout, then animate them all."""
        if trainer.is_global_zero:
            self._finish(trainer, pl_module)
            self._animate(trainer, pl_module)
        self._worker.close()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same with test images, for the network that is tested."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._samples = None
            self._submit(trainer, pl_module, "test", None)
            self._finish(trainer, pl_module)
        self._worker.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what is done; do not wait for the rest."""
        if trainer.is_global_zero:
            self._collect(trainer, pl_module)
        self._worker.close()

    def _submit(self, trainer: Trainer, pl_module: LightningModule, held_out: str, epoch: int | None) -> None:
        """Read the features of all layers in one pass and queue a layout for each."""
        with self.harmless(trainer, pl_module):
            x, y, is_held_out = self._fixed_samples(trainer, pl_module, held_out)
            features, logits = read_features(pl_module, self.layers, x, self.batch_size)
            check_classes(logits, y)
            names = class_names(trainer, max(logits.shape[1], int(y.max()) + 1))
            for layer in self.layers:
                name = layer or PIXELS
                tag = f"tsne/{name}" if held_out == "val" else f"test/tsne/{name}"
                if not np.isfinite(features[name]).all():
                    self.warn_once("NaN", f"the features of {name!r} are not finite")
                    continue
                arrays = {
                    "features": features[name],
                    "labels": y.cpu().numpy(),
                    "predictions": logits.argmax(1).cpu().numpy(),
                    "held_out": is_held_out,
                }
                if tag in self._layouts:
                    arrays["previous"] = self._layouts[tag].numpy()
                options = {
                    "kind": "layout",
                    "key": tag,
                    "title": name + (", tested" if epoch is None else f", epoch {epoch}"),
                    "class_names": names,
                    "held_out_name": "validation" if held_out == "val" else "test",
                    "perplexity": self.perplexity,
                    "seed": self.seed,
                }
                self._worker.submit(options, arrays, tag=tag, epoch=epoch, step=trainer.global_step)

    def _fixed_samples(
        self, trainer: Trainer, pl_module: LightningModule, held_out: str
    ) -> tuple[Tensor, Tensor, np.ndarray]:
        """Training and held-out images, their labels, and which of them are held out."""
        if self._samples is None:
            other = fixed_samples(trainer, pl_module, held_out, self.n_samples // 2)
            n_other = 0 if other is None else len(other[0])
            train = fixed_samples(trainer, pl_module, "train", self.n_samples - n_other)
            self._training = train or self._training  # a trainer that only tests may know no training data
            kept = [pair for pair in (self._training, other) if pair is not None and len(pair[0])]
            if not kept:
                raise ValueError("there are no images to embed")
            x, y = (torch.cat([part.cpu() for part in parts]) for parts in zip(*kept))
            self._samples = x, y, np.arange(len(x)) >= len(x) - n_other
        return self._samples

    def _collect(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the layouts that are done."""
        with self.harmless(trainer, pl_module):
            for job in self._worker.finished():
                with self.harmless(trainer, pl_module):
                    self._log(trainer, job)
                job.discard()

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._worker.wait(_tell)
        self._collect(trainer, pl_module)

    def _log(self, trainer: Trainer, job: Job) -> None:
        """One layout: scalars, projector entry, coordinates, picture."""
        if job.error is not None:
            raise RuntimeError(f"no layout of {job.options['title']}: {job.error}")
        tag, epoch, step = job.context["tag"], job.context["epoch"], job.context["step"]
        with np.load(job.folder / "result.npz") as result:
            self._layouts[tag] = torch.from_numpy(result["coordinates"])
            scalars = {f"{tag}/{name}": float(result[name]) for name in SCALARS}
        scalars = {name: value for name, value in scalars.items() if np.isfinite(value)}
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=step)
        directory = run_directory(trainer)
        try:
            places = tensorboard_directories(trainer)
            for place in places:
                self._add_to_projector(place, job)
            if not places:  # a report shows them all the same
                self._thumbnails(directory, job)
            copy_file(job.folder / "result.npz", directory / "figures" / f"{picture_name(tag, epoch)}.npz")
        finally:
            with Image.open(job.folder / "figure.png") as picture:
                log_pixels(trainer, tag, np.asarray(picture.convert("RGB")), epoch, step)

    def _add_to_projector(self, directory: Path, job: Job) -> None:
        assert self._samples is not None
        held_out, other = self._samples[2], job.options["held_out_name"]
        sprite = self._thumbnails(directory, job)
        with np.load(job.folder / "result.npz") as result:
            labels, predictions = result["labels"], result["predictions"]
        names = job.options["class_names"]
        columns = {
            "label": [names[index] for index in labels],
            "prediction": [names[index] for index in predictions],
            "split": [other if is_other else "training" for is_other in held_out],
            "outcome": ["right" if right else "wrong" for right in labels == predictions],
        }
        name = picture_name(job.context["tag"], job.context["epoch"])
        add_entry(directory, name, job.folder / "tensors.tsv", columns, sprite, self._sprites[directory / sprite])

    def _thumbnails(self, directory: Path, job: Job) -> str:
        """The sheet of the images' thumbnails below ``directory``, written once."""
        assert self._samples is not None
        x = self._samples[0]
        sprite = f"projector/{job.options['held_out_name']}_{len(x)}_thumbnails.png"
        if directory / sprite not in self._sprites:
            self._sprites[directory / sprite] = write_sprite(directory / sprite, x)
        return sprite

    def _animate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make a GIF of each layer's layouts over the epochs, those of a resumed run's first part too."""
        with self.harmless(trainer, pl_module):
            directory = run_directory(trainer) / "figures" / "tsne"
            for layer in self.layers:
                name = layer or PIXELS
                paths = sorted((directory / name).glob("epoch_*.npz"))
                if len(paths) > 1:
                    frames = [(f"{name}, epoch {int(path.stem.split('_')[1])}", str(path)) for path in paths]
                    self._worker.submit({"kind": "animation", "frames": frames}, target=directory / f"{name}.gif")
            self._worker.wait(lambda waiting: rank_zero_info("TSNELogger: waiting for the animations"))
            for job in self._worker.finished():
                if job.error is not None:
                    raise RuntimeError(f"no animation: {job.error}")
                copy_file(job.folder / "animation.gif", job.context["target"])


def _tell(waiting: int) -> None:
    rank_zero_info(f"TSNELogger: waiting for {waiting} t-SNE layout{'s' if waiting > 1 else ''} still being computed")


def read_features(
    pl_module: LightningModule, layers: Iterable[str | None], x: Tensor, batch_size: int
) -> tuple[dict[str, np.ndarray], Tensor]:
    """What each layer makes of images (N, C, H, W), flattened to (N, D) float32, and the logits (N, K)."""
    pl_module.eval()
    named = [layer for layer in layers if layer is not None]
    parts: dict[str, list[Tensor]] = {layer or PIXELS: [] for layer in layers}
    logits = []
    with torch.no_grad(), capture(pl_module, named) as outputs:
        for batch in x.split(batch_size):
            logits.append(classify(pl_module, batch.to(pl_module.device)).float().cpu())
            for name, collected in parts.items():
                values = batch if name == PIXELS else outputs[name]
                collected.append(values.flatten(1).float().cpu())
    return {name: torch.cat(collected).numpy() for name, collected in parts.items()}, torch.cat(logits)
