"""The t-SNE callback in training runs that are not the project's own."""

import csv
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch.utils.data import DataLoader

from callback_stand_ins import Classifier, OtherLogger, blobs, loaders, quiet_trainer
from callbacks import TSNELogger
from callbacks.tsne.client import Worker
from callbacks.tsne.logger import read_features
from callbacks.tsne.projector import write_sprite

LAYERS = (None, "features.2")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run of three epochs and a test, with two layers."""
    root = tmp_path_factory.mktemp("run")
    loggers = [
        TensorBoardLogger(root, name="run", version="0"),
        CSVLogger(root, name="run", version="0"),
        OtherLogger(),
    ]
    callback = TSNELogger(layer=LAYERS, n_samples=60)
    trainer = quiet_trainer(root, callback, logger=loggers, max_epochs=3)
    module = Classifier()
    trainer.fit(module, *loaders())
    assert callback._worker._process is None
    trainer.test(module, DataLoader(blobs(40, seed=3), batch_size=16), verbose=False)
    loggers[0].experiment.flush()
    return root / "run" / "0"


def test_three_epochs_and_two_layers_are_six_projector_entries(run):
    config = text_format.Parse((run / "projector_config.pbtxt").read_text(), ProjectorConfig())
    names = [entry.tensor_name for entry in config.embeddings]
    expected = {f"tsne/{layer}/epoch_{epoch:04d}" for layer in ("pixels", "features.2") for epoch in range(3)}
    assert expected == {name for name in names if not name.startswith("test/")}
    assert len(names) == len(set(names)) == 8
    for entry in config.embeddings:
        tensors = np.loadtxt(run / entry.tensor_path, ndmin=2)
        header, *rows = (run / entry.metadata_path).read_text().splitlines()
        assert header.split("\t") == ["label", "prediction", "split", "outcome"]
        assert len(tensors) == len(rows) == 60
        assert 2 <= tensors.shape[1] <= 50
        assert sum("training" in row for row in rows) == 30
        with Image.open(run / entry.sprite.image_path) as sprite:
            width, height = entry.sprite.single_image_dim
            assert sprite.size == (8 * width, 8 * height)


def test_coordinates_pictures_scalars_and_animation(run):
    saved = [np.load(run / "figures" / "tsne" / "features.2" / f"epoch_{epoch:04d}.npz") for epoch in range(3)]
    for arrays in saved:
        assert arrays["coordinates"].shape == (60, 2)
        np.testing.assert_array_equal(arrays["labels"], saved[0]["labels"])
        assert arrays["held_out"].sum() == 30
        assert np.bincount(arrays["labels"][arrays["held_out"]], minlength=4).min() >= 5
    assert (saved[0]["coordinates"] != saved[1]["coordinates"]).any()
    with Image.open(run / "figures" / "tsne" / "features.2.gif") as animation:
        assert animation.n_frames == 3
    assert (run / "figures" / "test" / "tsne" / "pixels.png").exists()
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("tsne/features.2/knn_features")]
    assert len(rows) == 3
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    assert [image.step for image in events.Images("tsne/features.2")] == [6, 12, 18]
    for name in ("kl_divergence", "trustworthiness", "knn_embedding", "knn_features"):
        assert len(events.Scalars(f"tsne/features.2/{name}")) == 3


def test_unchanged_pixels_stay_where_they_are(run):
    first, last = (np.load(run / "figures" / "tsne" / "pixels" / f"epoch_000{epoch}.npz") for epoch in (0, 2))
    np.testing.assert_array_equal(first["coordinates"], last["coordinates"])


def test_features_are_what_the_layer_puts_out():
    module, x = Classifier(), blobs(10).tensors[0]
    features, logits = read_features(module, [None, "features.2"], x, batch_size=4)
    module.eval()
    with torch.no_grad():
        np.testing.assert_allclose(features["features.2"], module.features[:3](x).flatten(1), atol=1e-6)
        np.testing.assert_allclose(logits, module(x), atol=1e-6)
    np.testing.assert_array_equal(features["pixels"], x.flatten(1))


def test_unknown_layer_is_refused_before_training(tmp_path):
    module = Classifier()
    trainer = quiet_trainer(tmp_path, TSNELogger(layer="featres.2"), max_epochs=1)
    with pytest.raises(ValueError, match=r"featres\.2.*features\.2"):
        trainer.fit(module, *loaders())
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    "options", [{"n_samples": 0}, {"every_n_epochs": 0}, {"perplexity": 0.0}, {"time_budget": -1.0}, {"batch_size": 0}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TSNELogger(**options)


def test_single_class_without_validation_and_nan_features(tmp_path):
    class Broken(Classifier):
        def on_train_epoch_end(self):
            torch.nn.init.constant_(self.head.weight, torch.nan)

    trainer = quiet_trainer(tmp_path, TSNELogger(layer=[None, "head"], n_samples=9), max_epochs=2)
    with pytest.warns(UserWarning, match="features of 'head' are not finite") as caught:
        trainer.fit(Broken(n_classes=1), loaders(n_classes=1)[0])
    assert sum("TSNELogger" in str(warning.message) for warning in caught) == 1
    folder = tmp_path / "figures" / "tsne"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("epoch_*.png")}
    assert found == {"pixels/epoch_0000.png", "pixels/epoch_0001.png", "head/epoch_0000.png"}


def test_layouts_outlive_a_checkpoint():
    callback, resumed = TSNELogger(layer="head"), TSNELogger(layer="head")
    callback._layouts["tsne/head"] = torch.rand(5, 2)
    resumed.load_state_dict(callback.state_dict())
    torch.testing.assert_close(resumed._layouts, callback._layouts)
    assert callback.state_key != TSNELogger().state_key


def job(**options) -> dict:
    return {
        "kind": "layout",
        "key": "a",
        "title": "a",
        "class_names": ["0", "1"],
        "held_out_name": "validation",
        "perplexity": 30.0,
        "seed": 0,
    } | options


def arrays(n: int) -> dict[str, np.ndarray]:
    features = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    labels = np.arange(n) % 2
    return {"features": features, "labels": labels, "predictions": labels, "held_out": labels == 0}


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])  # as in the background
def test_worker_gives_up_on_time_and_goes_on(handler):
    previous = signal.signal(signal.SIGINT, handler)
    worker = Worker(time_budget=1.0)
    try:
        slow = worker.submit(job(), arrays(6000))
        quick = worker.submit(job(key="b"), arrays(8))
        assert worker.finished() == []
        worker.wait()
        assert worker.finished() == [slow, quick]
        assert "TimeoutError: not done within 1 s" in (slow.error or "")
        assert quick.error is None
        assert (quick.folder / "result.npz").exists()
    finally:
        worker.close()
        signal.signal(signal.SIGINT, previous)
    assert not slow.folder.exists()


@pytest.mark.parametrize("noticed", [True, False])  # before the next job is handed in
def test_worker_that_dies_is_one_error_and_a_new_one_takes_over(noticed):
    worker = Worker(time_budget=30.0)
    try:
        lost = worker.submit(job(), arrays(8))
        assert worker._process is not None
        worker._process.kill()
        worker._process.wait()
        if noticed:
            assert worker.finished() == [lost]
            assert worker.finished() == []
        again = worker.submit(job(), arrays(8))
        worker.wait()
        assert worker.finished() == ([again] if noticed else [lost, again])
        assert "ended with code -9" in (lost.error or "")
        assert again.error is None
    finally:
        worker.close()


def test_worker_imports_neither_torch_nor_lightning():
    code = "import sys, drawing, layout; print(*sys.modules)"
    folder = Path(sys.modules["callbacks.tsne.client"].__file__).parent
    loaded = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert "sklearn" in loaded.split()
    assert not {"torch", "lightning", "callbacks"} & set(loaded.split())


@pytest.mark.processes
def test_worker_ends_with_a_training_that_was_killed(tmp_path):
    code = (
        "from callbacks.tsne.client import Worker; import os, signal; worker = Worker(1.0); worker.start();"
        "print(worker._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(600):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    os.kill(pid, 9)
    pytest.fail("the worker is still there")


def test_sprite_holds_the_images_in_rows(tmp_path):
    images = torch.rand(5, 1, 6, 4)
    assert write_sprite(tmp_path / "sprite.png", images) == (4, 6)
    sprite = np.asarray(Image.open(tmp_path / "sprite.png"))
    assert sprite.shape == (18, 12, 3)
    np.testing.assert_array_equal(sprite[6:12, 0:4, 0], images[3, 0].mul(255).byte())
    assert write_sprite(tmp_path / "large.png", torch.rand(3, 3, 200, 100)) == (24, 48)


STUB_RUN = """
import sys
from pathlib import Path
from callback_stand_ins import Classifier, loaders, quiet_trainer
from callbacks import TSNELogger
from lightning.pytorch.loggers import TensorBoardLogger
import tensorflow
assert not hasattr(tensorflow, "io")
root = Path(sys.argv[1])
logger = TensorBoardLogger(root, name="r", version="0")
trainer = quiet_trainer(root, TSNELogger(n_samples=10), logger=logger, max_epochs=1)
trainer.fit(Classifier(), *loaders())
"""


@pytest.mark.processes
def test_a_module_named_tensorflow_does_no_harm(tmp_path):
    (tmp_path / "stub" / "tensorflow").mkdir(parents=True)
    (tmp_path / "stub" / "tensorflow" / "__init__.py").write_text('__version__ = "2.99"\n')
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(map(str, (tmp_path / "stub", root, root / "tests")))
    command = [sys.executable, "-W", "error::UserWarning:callbacks", "-c", STUB_RUN, str(tmp_path)]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=True)
    assert "tsne/pixels/epoch_0000" in (tmp_path / "r" / "0" / "projector_config.pbtxt").read_text()
    events = EventAccumulator(str(tmp_path / "r" / "0")).Reload()
    assert events.Tags()["images"] == ["tsne/pixels"]


def test_a_worker_killed_on_the_way_costs_one_picture_and_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("callbacks.tsne.client.STARTUP_SECONDS", 600.0)  # waiting for the lost job would show

    class Killing(TSNELogger):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                self._worker._process.kill()
                self._worker._process.wait()

    trainer = quiet_trainer(tmp_path, Killing(n_samples=8), max_epochs=2)
    with pytest.warns(UserWarning, match="pixels, epoch 0: the worker ended with code -9"):
        trainer.fit(Classifier(), *loaders())
    found = [path.name for path in (tmp_path / "figures" / "tsne" / "pixels").glob("*.png")]
    assert found == ["epoch_0001.png"]


def test_a_single_image(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="lightning")
        quiet_trainer(tmp_path, TSNELogger(n_samples=1), max_epochs=1).fit(Classifier(), *loaders())
    with np.load(tmp_path / "figures" / "tsne" / "pixels" / "epoch_0000.npz") as saved:
        assert saved["coordinates"].shape == (1, 2)


def test_projector_entries_lie_beside_each_tensorboard_loggers_events(tmp_path):
    tensorboards = [TensorBoardLogger(tmp_path, name=name, version="0") for name in ("a", "b")]
    loggers = [CSVLogger(tmp_path, name="csv", version="0"), *tensorboards]
    trainer = quiet_trainer(tmp_path, TSNELogger(n_samples=8), logger=loggers, max_epochs=1)
    trainer.fit(Classifier(), *loaders())
    assert sorted(path.parts[-3] for path in tmp_path.rglob("projector_config.pbtxt")) == ["a", "b"]
    for name in ("a", "b"):
        config = text_format.Parse((tmp_path / name / "0" / "projector_config.pbtxt").read_text(), ProjectorConfig())
        (entry,) = config.embeddings
        for path in (entry.tensor_path, entry.metadata_path, entry.sprite.image_path):
            assert (tmp_path / name / "0" / path).exists()
    assert (tmp_path / "csv" / "0" / "figures" / "tsne" / "pixels" / "epoch_0000.png").exists()
