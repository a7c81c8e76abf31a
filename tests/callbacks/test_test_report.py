"""The test stage: its figures against scikit-learn and closed forms, its pictures, its files."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from scipy.optimize import brentq
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from callback_stand_ins import Classifier, OtherLogger, blobs, quiet_trainer
from callbacks import TestReport
from callbacks.report_drawing import draw_confusion, draw_mistakes, draw_per_class
from callbacks.test_report import wilson_interval
from callbacks.training_examples import Examples, run_checkpoints, training_examples

N = 90
PICTURES = {"confusion_matrix", "per_class", "calibration", "worst_mistakes"}


@pytest.fixture
def tested(tmp_path):
    """A tested classifier, its report's logger, its data, and its probabilities."""
    module, logger, data = Classifier(), OtherLogger(), blobs(N)
    trainer = quiet_trainer(tmp_path, report := TestReport(n_worst=7), logger=logger)
    (metrics,) = trainer.test(module, DataLoader(data, batch_size=16), verbose=False)
    with torch.no_grad():
        probabilities = module.eval()(data.tensors[0]).softmax(1)
    return metrics | logger.metrics, data, probabilities, report


def test_figures_agree_with_scikit_learn(tested):
    metrics, data, probabilities, _ = tested
    labels, predicted = data.tensors[1].numpy(), probabilities.argmax(1).numpy()
    assert 0 < (labels == predicted).mean() < 1
    precision, recall, *_ = precision_recall_fscore_support(labels, predicted, labels=range(4), zero_division=0)
    for index in range(4):
        assert metrics[f"test/precision/{index}"] == pytest.approx(precision[index], abs=1e-6)
        assert metrics[f"test/recall/{index}"] == pytest.approx(recall[index], abs=1e-6)
    low, high = metrics["test/accuracy_low"], metrics["test/accuracy_high"]
    assert low < (labels == predicted).mean() < high


def test_a_class_that_was_not_tested_has_no_recall(tmp_path):
    data = blobs(N, n_classes=3)  # of four that the module knows
    trainer = quiet_trainer(tmp_path, TestReport(), logger=(logger := OtherLogger()))
    trainer.test(Classifier(), DataLoader(data, batch_size=16), verbose=False)
    assert {f"test/recall/{index}" for index in range(3)} < logger.metrics.keys()
    assert "test/recall/3" not in logger.metrics
    recall = np.array([0.9, 0.2, np.nan, 0.7])
    (axes,) = draw_per_class(np.array([0.8, 0.6, 0.0, 0.9]), recall, list("abcd")).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "d", "b"]
    assert "1 of 4 classes were not tested" in axes.get_title()


def test_of_many_classes_the_worst_are_drawn():
    share = np.linspace(0, 1, 300)
    (axes,) = draw_per_class(share, share, [str(index) for index in range(300)]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [str(index) for index in range(99, -1, -1)]
    assert "100 worst of 300" in axes.get_title()


def test_calibration_error_is_the_gap_in_each_bin(tested):
    metrics, data, probabilities, _ = tested
    confidence, predicted = probabilities.max(1)
    hit = (predicted == data.tensors[1]).float()
    error = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            error += inside.float().mean().item() * abs(hit[inside].mean() - confidence[inside].mean()).item()
    assert error > 0
    assert metrics["test/calibration_error"] == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize(("correct", "n"), [(9921, 10000), (3, 10), (1, 200)])
def test_interval_solves_the_score_equation(correct, n):
    def gap(p: float) -> float:
        return (correct / n - p) ** 2 - 1.959963984540054**2 * p * (1 - p) / n

    low, high = wilson_interval(correct, n)
    assert low == pytest.approx(brentq(gap, 1e-12, correct / n), abs=1e-9)
    assert high == pytest.approx(brentq(gap, correct / n, 1 - 1e-12), abs=1e-9)


def test_interval_stays_inside_at_the_ends():
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0, abs=1e-15)
    assert wilson_interval(0, 10)[0] == pytest.approx(0.0, abs=1e-15)
    assert 0.7 < wilson_interval(10, 10)[0] < 0.75


def test_worst_mistakes_give_their_class_the_least(tested):
    _, data, probabilities, report = tested
    labels = data.tensors[1]
    wrong = probabilities.argmax(1) != labels
    true_probability = probabilities[torch.arange(N), labels]
    expected = torch.where(wrong, true_probability, torch.inf).argsort()[:7]
    assert wrong.sum() > 7
    torch.testing.assert_close(report._worst["image"], data.tensors[0][expected])
    torch.testing.assert_close(report._worst["probabilities"], probabilities[expected])


def test_pictures_in_figures_tensorboard_and_metrics_csv(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, name="run", version="0"), CSVLogger(tmp_path, name="run", version="0")]
    trainer = quiet_trainer(tmp_path, TestReport(), logger=loggers)
    trainer.test(Classifier(), DataLoader(blobs(N), batch_size=16), verbose=False)
    folder = tmp_path / "run" / "0"
    assert {path.stem for path in (folder / "figures" / "test").glob("*.png")} == PICTURES
    loggers[0].experiment.flush()
    assert set(EventAccumulator(str(folder)).Reload().Tags()["images"]) == {f"test/{name}" for name in PICTURES}
    with (folder / "metrics.csv").open() as file:
        columns = set().union(*csv.DictReader(file))
    assert {"test/accuracy_low", "test/calibration_error", "test/recall/3"} <= columns


def test_logits_returned_by_the_test_step_are_used(tmp_path):
    class Reports(Classifier):
        def test_step(self, batch, batch_idx):
            return {"logits": torch.nn.functional.one_hot(batch[1], 4) * 9.0}

    logger = OtherLogger()
    quiet_trainer(tmp_path, TestReport(), logger=logger).test(Reports(), DataLoader(blobs(20)), verbose=False)
    assert logger.metrics["test/recall/1"] == 1.0
    assert not (tmp_path / "figures" / "test" / "worst_mistakes.png").exists()


def test_batches_it_cannot_read_are_a_warning(tmp_path):
    class Single(Classifier):
        def test_step(self, batch, batch_idx):
            self.log("seen", 1.0)

    trainer = quiet_trainer(tmp_path, TestReport())
    with pytest.warns(UserWarning, match="TestReport: TypeError: a batch must hold inputs and targets"):
        (metrics,) = trainer.test(Single(), DataLoader(blobs(8).tensors[0], batch_size=4), verbose=False)
    assert metrics == {"seen": 1.0}


def test_confusion_shows_counts_and_shares():
    confusion = confusion_matrix([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0])
    figure = draw_confusion(confusion, ["a", "b", "c"], "title")
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), confusion / confusion.sum(1, keepdims=True))
    assert {text.get_text() for text in figure.axes[0].texts} == {"2", "1"}


def test_worst_class_is_at_the_top():
    figure = draw_per_class(np.array([0.9, 0.5, 1.0]), np.array([0.9, 0.9, 0.2]), ["a", "b", "c"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]


def test_the_true_class_is_always_among_the_bars():
    p = np.array([[0.5, 0.3, 0.15, 0.05]])
    figure = draw_mistakes(np.zeros((1, 3, 5, 4)), p, np.array([3]), ["a", "b", "c", "d"])
    bars = figure.axes[1]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["a", "b", "d"]
    assert [round(bar.get_width(), 3) for bar in bars.patches] == [0.5, 0.3, 0.05]


def test_training_images_stand_beside_the_worst_mistakes(tmp_path):
    """A mislabelled copy of a tested image, planted among the training images, is like it; influence by autograd."""
    data, training = blobs(N), blobs(60)
    module = Classifier()
    with torch.no_grad():
        said = module.eval()(data.tensors[0]).argmax(1)
    wrong = (said != data.tensors[1]).nonzero().flatten()[0]
    training.tensors[0][5], training.tensors[1][5] = data.tensors[0][wrong], said[wrong]
    x = data.tensors[0][wrong : wrong + 1]
    trainer = quiet_trainer(tmp_path, TestReport(n_worst=3, n_examples=2), max_epochs=1)
    trainer.fit(module, DataLoader(training, batch_size=16), DataLoader(data, batch_size=16))
    found = training_examples(trainer, module, x, said[wrong : wrong + 1], 2)
    assert found.similar.shape == (1, 2, *x.shape[1:])
    torch.testing.assert_close(found.similar[0, 0], x[0])

    def gradient(image, label):
        loss = torch.nn.functional.cross_entropy(module.eval()(image[None]), label[None])
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(module.parameters()))])

    own = gradient(x[0], said[wrong])
    products = torch.stack([gradient(image, label) @ own for image, label in zip(*training.tensors)])
    torch.testing.assert_close(found.influential[0], training.tensors[0][products.topk(2).indices])
    trainer.test(module, DataLoader(data, batch_size=16), verbose=False)
    assert len(list(tmp_path.rglob("worst_mistakes.png"))) == 1
    assert all(parameter.grad is None or not parameter.grad.isnan().any() for parameter in module.parameters())


def test_influence_is_asked_of_the_checkpoints_of_the_run(tmp_path):
    module, data = Classifier(), DataLoader(blobs(20), batch_size=10)
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, data)
    assert [(m is module, rate) for m, rate in run_checkpoints(trainer, module)] == [(True, 1.0)]
    trainer.save_checkpoint(tmp_path / "kept" / "last.ckpt")
    callback = SimpleNamespace(dirpath=tmp_path / "kept")
    weight = module.head.weight.detach().clone()
    torch.nn.init.zeros_(module.head.weight)
    ((found, rate),) = run_checkpoints(SimpleNamespace(checkpoint_callback=callback), module)
    torch.testing.assert_close(found.head.weight, weight)
    assert found is not module and rate == trainer.optimizers[0].param_groups[0]["lr"] and not module.head.weight.any()


def test_examples_are_drawn_under_their_mistake():
    images, p = np.zeros((2, 1, 5, 4)), np.array([[0.6, 0.4], [0.3, 0.7]])
    shown = torch.arange(2 * 3 * 20).view(2, 3, 1, 5, 4) / 120
    found = Examples(shown, torch.ones(2, 3).long(), 1 - shown, torch.zeros(2, 3).long())
    figure = draw_mistakes(images, p, np.array([1, 0]), ["a", "b"], found)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles.count("b") == titles.count("a") == 6
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), shown[0, 0, 0].numpy())


TWO_RANKS = """
import json, sys
from callback_stand_ins import Classifier, OtherLogger, blobs, quiet_trainer
from callbacks import TestReport
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader

seed_everything(0)
report, logger = TestReport(n_worst=7), OtherLogger()
devices = int(sys.argv[2])
options = {"devices": devices, "strategy": "ddp"} if devices > 1 else {}
trainer = quiet_trainer(sys.argv[1], report, logger=logger, **options)
trainer.test(Classifier(), DataLoader(blobs(64), batch_size=8), verbose=False)
if trainer.is_global_zero:
    open(f"{sys.argv[1]}/{devices}.json", "w").write(json.dumps(logger.metrics))
"""


@pytest.mark.processes
def test_two_ranks_report_what_one_does(tmp_path):
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    for devices in ("1", "2"):
        folder = tmp_path / devices
        folder.mkdir()
        subprocess.run([sys.executable, script, folder, devices], env=environment, check=True)
    one, two = (json.loads((tmp_path / d / f"{d}.json").read_text()) for d in ("1", "2"))
    one.pop("test_loss"), two.pop("test_loss")  # the module's own, which it does not synchronise
    assert len(one) > 10
    assert two == pytest.approx(one, abs=1e-6)
    pictures = [np.asarray(Image.open(tmp_path / d / "figures" / "test" / "worst_mistakes.png")) for d in ("1", "2")]
    np.testing.assert_array_equal(*pictures)
