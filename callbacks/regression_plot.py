"""The fitted curve of a one-dimensional regression, with the points it was fitted to."""

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure

from callbacks.figures import BLUE, GREY, ORANGE, PictureCallback, due, log_figure, picture_path, write_arrays
from callbacks.samples import fixed_samples, floating_dtype

MAX_POINTS = 1000
Points = tuple[np.ndarray, np.ndarray]


class RegressionPlot(PictureCallback):
    """Draw ``pl_module(x)`` over an interval when training ends, after testing and, if asked, on the way.

    List it after ``EarlyStopping``, so that its last picture shows the restored weights.

    Args:
        interval: the range of x, for modules that map (N, 1) to (N, 1).
        every_n_epochs: also draw every so many epochs; None: only at the end.
        n_points: resolution of the curve.
    """

    def __init__(
        self,
        interval: tuple[float, float] = (0.0, 1.0),
        every_n_epochs: int | None = None,
        n_points: int = 501,
    ) -> None:
        super().__init__()
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, not {every_n_epochs}")
        self.interval, self.every_n_epochs, self.n_points = interval, every_n_epochs, n_points

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the curve on the way, where asked."""
        if self.every_n_epochs is not None and due(trainer, self.every_n_epochs):
            self.draw(trainer, pl_module, "regression", trainer.current_epoch)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the final curve."""
        self.draw(trainer, pl_module, "regression")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the tested curve: that of the best checkpoint, where that is what was tested."""
        self.draw(trainer, pl_module, "test/regression")

    def draw(self, trainer: Trainer, pl_module: LightningModule, tag: str, epoch: int | None = None) -> None:
        """Draw the module as it is now, on the first rank."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        with self.harmless(trainer, pl_module):
            pl_module.eval()
            x = torch.linspace(*self.interval, self.n_points).to(pl_module.device, floating_dtype(pl_module))
            with torch.no_grad():
                prediction = pl_module(x[:, None])
            points = {}
            for split in ("train", "val", "test") if trainer.testing else ("train", "val"):
                samples = fixed_samples(trainer, pl_module, split, MAX_POINTS)
                if samples is not None and len(samples[0]):
                    points[split] = (samples[0].flatten().cpu().numpy(), samples[1].flatten().cpu().numpy())
            curve = (x.cpu().numpy(), prediction.flatten().cpu().numpy())
            title = f"{type(pl_module).__name__}, " + ("as fitted" if epoch is None else f"epoch {epoch}")
            log_figure(trainer, tag, draw_regression(curve, points, title), epoch)
            arrays = {"curve": np.stack(curve), **{f"points/{split}": np.stack(pair) for split, pair in points.items()}}
            write_arrays(picture_path(trainer, tag, epoch).with_suffix(".npz"), arrays)


def draw_regression(curve: Points, points: dict[str, Points], title: str) -> Figure:
    """The curve and the points of each split, with each split's mean squared error in the legend."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*curve, color=BLUE, linewidth=2, label="model")
    looks = {
        "train": ("o", "black", "training points"),
        "val": ("D", ORANGE, "held-out points"),
        "test": ("s", GREY, "test points"),
    }
    for split, (x, t) in points.items():
        marker, color, label = looks[split]
        error = float(np.mean((np.interp(x, *curve) - t) ** 2))
        axes.plot(x, t, marker, color=color, markersize=6, label=f"{label} (MSE {error:.2g})")
    axes.set(xlabel="$x$", ylabel="$t$", title=title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure
