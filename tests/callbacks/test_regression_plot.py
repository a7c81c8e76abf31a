"""The regression plot, and what all pictures share: where they go, and that they harm nothing."""

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callback_stand_ins import OtherLogger, quiet_trainer
from callbacks import EarlyStopping, RegressionPlot, tensorboard_command
from callbacks.figures import log_pixels, run_directory
from callbacks.regression_plot import draw_regression


class Curve(LightningModule):
    """Somebody else's regression."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)).double()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def points(n: int = 7) -> DataLoader:
    x = torch.linspace(0, 1, n, dtype=torch.float64)[:, None]
    return DataLoader(TensorDataset(x, torch.sin(6 * x)), batch_size=3)


def test_curve_is_the_module_in_eval_mode_with_all_its_points(tmp_path, monkeypatch):
    drawn = {}

    def remember(curve, points, title):
        drawn.update(curve=curve, points=points)
        return draw_regression(curve, points, title)

    monkeypatch.setattr("callbacks.regression_plot.draw_regression", remember)
    module = Curve()
    quiet_trainer(tmp_path, RegressionPlot(n_points=11), max_epochs=1).fit(module, points(), points(4))
    x = torch.linspace(0, 1, 11)[:, None].double()
    expected = module.eval()(x).detach().flatten()
    assert expected.std() > 0
    np.testing.assert_allclose(drawn["curve"][1], expected, atol=1e-12)
    np.testing.assert_allclose(drawn["points"]["train"][0], np.linspace(0, 1, 7))
    np.testing.assert_allclose(drawn["points"]["val"][1], np.sin(6 * np.linspace(0, 1, 4)))


def test_drawing_holds_curve_and_points():
    x = np.linspace(0, 1, 5)
    figure = draw_regression((x, x**2), {"train": (x, x), "val": (x[:2], x[:2])}, "title")
    curve, train, held_out = figure.axes[0].lines
    np.testing.assert_array_equal(curve.get_xydata(), np.stack([x, x**2], 1))
    np.testing.assert_array_equal(train.get_xydata(), np.stack([x, x], 1))
    assert f"{np.mean((x**2 - x) ** 2):.2g}" in train.get_label()
    assert "held-out" in held_out.get_label()


def test_pictures_on_the_way_and_the_restored_curve_at_the_end(tmp_path):
    callbacks = EarlyStopping(patience=50), RegressionPlot(every_n_epochs=2)
    quiet_trainer(tmp_path, *callbacks, max_epochs=4).fit(Curve(), points(), points())
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert found == {
        "figures/regression.png",
        "figures/regression/epoch_0001.png",
        "figures/regression/epoch_0003.png",
    }


def test_run_directory_follows_the_loggers(tmp_path):
    csv = CSVLogger(tmp_path, name="csv", version="1")
    assert run_directory(quiet_trainer(tmp_path, logger=[OtherLogger(), csv])) == tmp_path / "csv" / "1"
    assert run_directory(quiet_trainer(tmp_path, logger=OtherLogger())) == tmp_path
    assert run_directory(quiet_trainer(tmp_path)) == tmp_path


def test_every_tensorboard_logger_shows_every_picture(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, name=name, version="0") for name in ("a", "b")]
    trainer = quiet_trainer(tmp_path, logger=[OtherLogger(), *loggers])
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    for step in range(12):
        log_pixels(trainer, "noise", pixels, step, step)
    for logger in loggers:
        logger.experiment.flush()
        events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
        assert [image.step for image in events.Images("noise")] == list(range(12))
    assert len(list((tmp_path / "a" / "0" / "figures" / "noise").glob("*.png"))) == 12
    np.testing.assert_array_equal(Image.open(tmp_path / "a/0/figures/noise/epoch_0003.png"), pixels)


def test_command_shows_every_snapshot():
    assert "--logdir runs --samples_per_plugin images=" in tensorboard_command("runs")


@pytest.mark.parametrize("options", [{"every_n_epochs": 0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="every_n_epochs"):
        RegressionPlot(**options)


def test_trouble_is_one_warning_and_training_goes_on(tmp_path):
    (tmp_path / "figures").write_text("a file where the folder should be")
    callback = RegressionPlot(every_n_epochs=1)
    trainer = quiet_trainer(tmp_path, callback, max_epochs=5)
    with pytest.warns(UserWarning, match="RegressionPlot: .*training goes on") as caught:
        trainer.fit(Curve(), points())
    assert trainer.current_epoch == 5
    assert sum("RegressionPlot" in str(warning.message) for warning in caught) == 1
