"""What all callbacks promise: the training run is the same with them as without, and nothing is left behind."""

import gc
import random
import tracemalloc
import warnings
from functools import lru_cache

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib import pyplot, text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from callback_stand_ins import Classifier, OtherLogger, blobs, loaders, quiet_trainer
from callbacks import RegressionPlot, SaliencySnapshots, TestReport, TSNELogger, WeightDiagnostics
from callbacks.diagnostics import norms
from callbacks.samples import balanced, fixed_samples, unpack


class Disturbing(SaliencySnapshots):
    """Draws from every random state and leaves the module in eval mode, as a careless method might."""

    def _draw(self, trainer, pl_module, *args):
        with self.harmless(trainer, pl_module):
            torch.rand(3), np.random.rand(3), random.random()
            pl_module.eval()
            raise RuntimeError("careless")


def all_of_them() -> list[Callback]:
    return [
        TSNELogger(layer=[None, "features.2"], n_samples=20),
        SaliencySnapshots(methods=["SmoothGrad", "GradCAM"], layers=[None, "features.2"]),
        Disturbing(),
        WeightDiagnostics(every_n_steps=2),
        RegressionPlot(every_n_epochs=1),
        TestReport(),
    ]


def trained(root, callbacks, accelerator: str = "cpu") -> tuple[dict[str, Tensor], list[float]]:
    """The weights, and draws from each random state, after training."""
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    module = Classifier()
    trainer = quiet_trainer(root, *callbacks, logger=TensorBoardLogger(root), max_epochs=3, accelerator=accelerator)
    trainer.fit(module, *loaders())
    trainer.test(module, DataLoader(blobs(20), batch_size=8), verbose=False)
    assert all(child.training for child in module.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules())
    return module.state_dict(), [torch.rand(()).item(), np.random.rand(), random.random()]


def test_weights_and_random_states_are_bit_identical(tmp_path):
    weights, draws = trained(tmp_path / "without", [])
    with pytest.warns(UserWarning, match="Disturbing: RuntimeError: careless"):
        weights_with, draws_with = trained(tmp_path / "with", all_of_them())
    assert (weights["head.weight"] != Classifier().state_dict()["head.weight"]).any()
    for name, tensor in weights.items():
        assert torch.equal(tensor, weights_with[name]), name
    assert draws == draws_with
    assert pyplot.get_fignums() == []
    assert len(list((tmp_path / "with").rglob("*.png"))) > 10


@pytest.mark.cuda
def test_all_of_them_on_cuda(tmp_path):
    with pytest.warns(UserWarning, match="Disturbing: RuntimeError: careless") as caught:
        trained(tmp_path, [c for c in all_of_them() if not isinstance(c, RegressionPlot)], "cuda")
    assert sum("training goes on" in str(warning.message) for warning in caught) == 1
    assert len(list(tmp_path.rglob("*.png"))) > 10


def test_nothing_runs_in_sanity_checks_and_fast_dev_runs(tmp_path):
    callbacks = [c for c in all_of_them() if type(c) is not Disturbing]
    trainer = quiet_trainer(tmp_path, *callbacks, fast_dev_run=1)
    trainer.fit(Classifier(), *loaders())
    assert [path for path in tmp_path.rglob("*") if "tsne" in path.name or "saliency" in path.name] == []


@pytest.mark.parametrize("callback", [SaliencySnapshots(), TSNELogger(n_samples=12), WeightDiagnostics(), TestReport()])
def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path, callback):
    (tmp_path / "figures").write_text("a file where the folder should be")
    trainer = quiet_trainer(tmp_path, callback, logger=(logger := OtherLogger()), max_epochs=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module := Classifier(), *loaders())
        trainer.test(module, DataLoader(blobs(20), batch_size=8), verbose=False)
    assert trainer.state.finished
    ours = [str(warning.message) for warning in caught if type(callback).__name__ in str(warning.message)]
    assert len(ours) == (0 if isinstance(callback, WeightDiagnostics) else 1)
    assert (tmp_path / "figures").read_text().startswith("a file")
    assert logger.metrics


@pytest.mark.slow
def test_a_hundred_snapshots_leave_no_memory_behind(tmp_path):
    callback = SaliencySnapshots(n_images=2)
    trainer = quiet_trainer(tmp_path, callback, max_epochs=1)
    module = Classifier()
    train, validation = loaders()
    trainer.fit(module, train, validation)
    callback.setup(trainer, module, "fit")

    def snapshots(n: int) -> None:
        for _ in range(n):
            callback._draw(trainer, module, "train", "saliency", 0)
        # matplotlib before 3.11 remembers the sizes of its last 4096 texts, a bounded cache that is not ours
        getattr(text, "_get_text_metrics_with_cache_impl", lru_cache(int)).cache_clear()
        gc.collect()

    snapshots(10)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    snapshots(90)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 200_000  # bytes; a single kept picture is larger
    assert pyplot.get_fignums() == []


def test_norms_against_numpy():
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(5).double()}
    flat = np.concatenate([tensor.flatten().numpy() for tensor in tensors.values()])
    expected = {f"n/{name}": np.linalg.norm(tensor.flatten()) for name, tensor in tensors.items()}
    assert norms("n", tensors) == pytest.approx(expected | {"n/total": np.linalg.norm(flat)}, rel=1e-6)
    assert norms("n", {}) == {}


@pytest.mark.parametrize("manual", [False, True])
def test_gradient_norms_are_those_the_optimiser_sees(tmp_path, manual):
    seen = []

    class Spied(Classifier):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = not manual

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if manual:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def on_before_optimizer_step(self, optimizer):
            seen.append(torch.cat([p.grad.flatten() for p in self.parameters()]).norm().item())

    logger = TensorBoardLogger(tmp_path, name="run", version="0")
    trainer = quiet_trainer(tmp_path, WeightDiagnostics(every_n_steps=4), logger=logger, max_epochs=2)
    trainer.fit(Spied(), loaders()[0])
    events = EventAccumulator(str(tmp_path / "run" / "0"), size_guidance={"histograms": 0}).Reload()
    totals = events.Scalars("weights/gradient_norm/total")
    assert [scalar.step for scalar in totals] == [0, 4, 8]
    np.testing.assert_allclose([scalar.value for scalar in totals], seen[::4], rtol=1e-5)
    assert len(events.Histograms("weights/head.weight")) == 2


def test_samples_are_balanced_and_always_the_same():
    labels = torch.tensor([0] * 50 + [1] * 5 + [2] * 20)
    chosen = balanced(labels, 15)
    assert torch.bincount(labels[chosen]).tolist() == [5, 5, 5]
    assert balanced(labels, 100).tolist() == list(range(75))
    assert len(balanced(torch.rand(9), 4)) == 4


@pytest.mark.parametrize("batch", [torch.rand(3), {"image": torch.rand(2)}, (torch.rand(2),), "no"])
def test_unreadable_batches_are_a_type_error(batch):
    with pytest.raises(TypeError, match="inputs and targets"):
        unpack(batch)


def test_samples_move_neither_samplers_nor_random_states(tmp_path):
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(blobs(40), batch_size=8, shuffle=True, generator=generator)
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(module := Classifier(), loader)
    state, place = torch.get_rng_state(), generator.get_state()
    x, y = fixed_samples(trainer, module, "train", 10)
    again, _ = fixed_samples(trainer, module, "train", 10)
    assert torch.equal(x, again)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(place, generator.get_state())
    rows = (x[:, None] == loader.dataset.tensors[0][None]).flatten(2).all(2)
    assert (rows.sum(1) == 1).all()
    assert torch.equal(loader.dataset.tensors[1][rows.int().argmax(1)], y)
    assert fixed_samples(trainer, module, "val", 10) is None


def test_samples_come_through_transfer_hooks_without_augmentation(tmp_path):
    class Augmenting(LightningDataModule):
        def train_dataloader(self):
            return loaders()[0]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return (batch[0] + 5 * self.trainer.training, batch[1])

    class Late(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            assert trainer.training
            self.x, _ = fixed_samples(trainer, pl_module, "train", 10)
            assert trainer.training

    trainer = quiet_trainer(tmp_path, late := Late(), max_epochs=1)
    trainer.fit(Classifier(), datamodule=Augmenting())
    assert late.x.max() <= 1


class Regressor(Classifier):
    """Not a classifier at all."""

    def _loss(self, batch):
        return torch.nn.functional.mse_loss(self(batch[0]), batch[1])


@pytest.mark.parametrize("callback", [SaliencySnapshots(), TSNELogger(n_samples=12), TestReport()])
def test_a_regression_module_is_one_warning_that_says_so(tmp_path, callback):
    data = DataLoader(TensorDataset(torch.rand(20, 1, 9, 12), torch.rand(20, 4)), batch_size=8)
    trainer = quiet_trainer(tmp_path, callback, max_epochs=2)
    with pytest.warns() as caught:
        trainer.fit(module := Regressor(), data, data)
        trainer.test(module, data, verbose=False)
    assert trainer.state.finished
    ours = [str(warning.message) for warning in caught if type(callback).__name__ in str(warning.message)]
    assert len(ours) == 1 and "needs a classifier" in ours[0]


def test_a_fast_dev_run_writes_nothing(tmp_path):
    callbacks = [c for c in all_of_them() if type(c) is not Disturbing]
    trainer = quiet_trainer(tmp_path, *callbacks, fast_dev_run=1)
    trainer.fit(module := Classifier(), *loaders())
    trainer.test(module, DataLoader(blobs(20), batch_size=8), verbose=False)
    assert list(tmp_path.iterdir()) == []


def test_batches_may_be_mappings_in_any_order():
    images, labels = blobs(5).tensors
    for batch in ({"image": images, "label": labels}, {"labels": labels, "pixel_values": images, "path": "x"}):
        x, y = unpack(batch)
        assert x is images and y is labels
