"""Long runs: memory stays flat, and no open file, figure, thread, process or temporary file is left over."""

import json
import os
from pathlib import Path
from statistics import median

import pytest

from training_runs import QUIET, command, environment, finished

pytestmark = pytest.mark.faults
GROWTH = 0.05

REGRESSION = [
    "{class_path: callbacks.EarlyStopping, init_args: {monitor: train/loss, patience: 100000}}",
    "{class_path: callbacks.RegressionPlot, init_args: {every_n_epochs: 20}}",
    "callbacks.WeightDiagnostics",
    "lightning.pytorch.callbacks.LearningRateMonitor",
]
CLASSIFICATION = [
    "{class_path: callbacks.EarlyStopping, init_args: {patience: 100000}}",
    "{class_path: callbacks.TSNELogger, init_args: {layer: [null, features], n_samples: 60, every_n_epochs: 5}}",
    "{class_path: callbacks.SaliencySnapshots, init_args: {methods: [Saliency, GradCAM], layers: [null, stages.1],"
    " n_images: 4, every_n_epochs: 2}}",
    "callbacks.WeightDiagnostics",
    "callbacks.TestReport",
    "lightning.pytorch.callbacks.LearningRateMonitor",
]


def watched(here: Path, words: list[str], callbacks: list[str], every: int) -> list[dict[str, int]]:
    """The samples of a run with these callbacks; nothing of it is left in the temporary folder."""
    watch = f"{{class_path: injected.Watch, init_args: {{path: '{here / 'watch.jsonl'}', every: {every}}}}}"
    (here / "temporary").mkdir()
    temporary = {"TMPDIR": str(here / "temporary")}
    listed = f"--trainer.callbacks=[{', '.join([*callbacks, watch])}]"
    code, output = finished(command(*words, listed, *QUIET), here, env=environment(**temporary))
    assert code == 0, output[-3000:]
    assert "training goes on" not in output
    assert os.listdir(here / "temporary") == []
    return [json.loads(line) for line in (here / "watch.jsonl").read_text().splitlines()]


def assert_flat(samples: list[dict[str, int]], row: dict) -> None:
    """The last fifth needs no more than 5 % over the second fifth: the first one warms up."""
    fifth = len(samples) // 5
    early, late = samples[fifth : 2 * fifth], samples[-fifth:]
    memory = [median(sample["memory"] for sample in part) for part in (early, late)]
    growth = memory[1] / memory[0] - 1
    row["figure"] = f"{memory[0] / 1024:.0f} → {memory[1] / 1024:.0f} MiB, {growth:+.1%}"
    assert growth < GROWTH, row["figure"]
    for kind in ("files", "threads", "children"):
        assert max(sample[kind] for sample in late) <= max(sample[kind] for sample in early), kind
    assert all(sample["figures"] == 0 for sample in samples)


PROMISE = "memory is flat within 5 %; no open file, figure, thread, process or temporary file is left over"


def test_two_thousand_epochs_of_toy(tmp_path, record_promise):
    row = record_promise(PROMISE, "2,000 epochs of `toy` with every callback that applies", group="Long runs")
    words = ["toy", "--trainer.max_epochs=2000", "--data.passes_per_epoch=10", "--trainer.log_every_n_steps=10"]
    assert_flat(watched(tmp_path, words, REGRESSION, 20), row)


def test_three_hundred_epochs_of_a_hundred_digits(tmp_path, record_promise):
    row = record_promise(PROMISE, "300 epochs of 100 digits with all callbacks", group="Long runs")
    data = ["--data=injected.SmallMNIST", "--data.data_dir=none", "--data.n_train=120", "--data.val_size=20"]
    words = ["digits", *data, "--data.degrees=8", "--data.batch_size=50", "--trainer.max_epochs=300"]
    words += ["--model.channels=[8,8]", "--model.hidden=32", "--trainer.log_every_n_steps=1"]
    assert_flat(watched(tmp_path, words, CLASSIFICATION, 5), row)
