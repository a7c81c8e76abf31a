"""Pictures of a run: drawn without pyplot, rendered once, written as PNG and shown in TensorBoard.

Every picture lies under ``figures/`` in the run's folder, whatever the logger. A callback that draws derives
from :class:`PictureCallback`, which keeps trouble with a picture from becoming trouble with the training.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from interpretability.whole_files import whole_file

DPI = 110
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#767676"  # after Okabe and Ito: told apart by every kind of vision


def run_directory(trainer: Trainer) -> Path:
    """The folder of this run: the first logger's ``log_dir``, else the trainer's ``default_root_dir``."""
    for logger in trainer.loggers:
        if isinstance(log_dir := getattr(logger, "log_dir", None), str | os.PathLike):
            return Path(log_dir)
    return Path(trainer.default_root_dir)


def tensorboard_writers(trainer: Trainer) -> list[Any]:
    """The summary writers of all TensorBoard loggers (any number of them, also none)."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def tensorboard_directories(trainer: Trainer) -> list[Path]:
    """Where TensorBoard looks for a run's plain files: beside each logger's events; else the run's folder."""
    found = [Path(logger.log_dir) for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return list(dict.fromkeys(found)) or [run_directory(trainer)]


def tensorboard_command(directory: str | os.PathLike) -> str:
    """The command that shows a folder of runs with every picture in it; TensorBoard alone keeps ten of a kind."""
    return f"tensorboard --logdir {directory} --samples_per_plugin images=10000"


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write pixels, uint8 (H, W, 3), as a PNG that is never half there; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as ``.npz`` that is never half there; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **dict(arrays))  # type: ignore[arg-type]  # of any name


def copy_file(source: Path, target: Path) -> None:
    """Copy a file so that ``target`` is never half there; makes the folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as partial:
        shutil.copyfile(source, partial)


def render(figure: Figure) -> np.ndarray:
    """The pixels of a figure, uint8 (H, W, 3)."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def picture_name(tag: str, epoch: int | None) -> str:
    """``tag`` itself, or ``tag/epoch_0007`` for a picture that comes again."""
    return tag if epoch is None else f"{tag}/epoch_{epoch:04d}"


def picture_path(trainer: Trainer, tag: str, epoch: int | None) -> Path:
    """Where the picture of this name lies: ``figures/<tag>.png``, or ``figures/<tag>/epoch_0007.png``."""
    return run_directory(trainer) / "figures" / f"{picture_name(tag, epoch)}.png"


def log_figure(trainer: Trainer, tag: str, figure: Figure, epoch: int | None = None) -> None:
    """Draw ``figure`` and log it as :func:`log_pixels` does, on the first rank alone."""
    if trainer.is_global_zero:
        log_pixels(trainer, tag, render(figure), epoch, trainer.global_step)


def log_pixels(trainer: Trainer, tag: str, pixels: np.ndarray, epoch: int | None, step: int) -> None:
    """Write ``figures/<tag>.png`` and show it in TensorBoard under ``tag``.

    Args:
        trainer: where the run's folder and loggers come from.
        tag: the picture's name; a slash makes a folder.
        pixels: uint8 (H, W, 3).
        epoch: for a picture that comes again: it is then ``figures/<tag>/epoch_0007.png``.
        step: TensorBoard's step.
    """
    try:
        write_image(picture_path(trainer, tag, epoch), pixels)
    finally:
        for writer in tensorboard_writers(trainer):
            writer.add_image(tag, pixels, global_step=step, dataformats="HWC")


def displayable(image: np.ndarray) -> np.ndarray:
    """A (C, H, W) image as (H, W) or (H, W, 3) in [0, 1]; values outside are stretched over the range."""
    image = image.astype(np.float64)
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        image = (image - low) / (high - low or 1.0)
    return image.transpose(1, 2, 0)[..., :3] if len(image) >= 3 else image[0]


def ignore_stub_tensorflow() -> None:
    """Where a module named ``tensorflow`` is not TensorFlow, make TensorBoard do without it.

    TensorBoard takes any such module for the real one and fails on it when the first event file is opened.
    ``tensorboard.compat.notf`` is its own switch for that.
    """
    try:
        found = importlib.util.find_spec("tensorflow")
        usable = found is None or bool(found.origin and (Path(found.origin).parent / "python").is_dir())
    except ValueError:  # made by hand, without a spec
        usable = False
    if not usable:
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))


class PictureCallback(Callback):
    """Base of the callbacks that draw: they leave random states alone and never end a training run."""

    def __init__(self) -> None:
        ignore_stub_tensorflow()
        self._warned: set[str] = set()

    @contextmanager
    def harmless(self, trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
        """Restore random states and training modes; turn an exception into one warning of its kind."""
        modes = [(module, module.training) for module in pl_module.modules()]
        with isolate_rng():
            try:
                yield
            except Exception as error:
                kind = OSError if isinstance(error, OSError) else type(error)
                self.warn_once(kind.__name__, f"{type(error).__name__}: {error}")
            finally:
                for module, training in modes:
                    module.training = training

    def warn_once(self, kind: str, message: str) -> None:
        """Say that something could not be drawn, and that training goes on; once for each kind of trouble."""
        if kind not in self._warned:
            self._warned.add(kind)
            rank_zero_warn(f"{type(self).__name__}: {message} (training goes on without this picture)")


def due(trainer: Trainer, every_n_epochs: int) -> bool:
    """Whether this epoch's picture is wanted; the sanity check and ``fast_dev_run`` draw none."""
    if trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return False
    return (trainer.current_epoch + 1) % every_n_epochs == 0
