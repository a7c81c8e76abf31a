"""An interrupted run, resumed, ends bit for bit as the uninterrupted one: weights, optimiser, schedule, callbacks."""

import csv
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor

from training_runs import QUIET, SMALL_MNIST, load, only_run, train

STOPPING = "--trainer.callbacks=[{class_path: callbacks.EarlyStopping, init_args: {patience: 3, min_delta: 0.02}}]"
DISTORTED = ["--data.degrees=8", "--data.translate=0.06", "--data.scale=0.1", "--data.elastic=1.5"]
SETTINGS = {
    "toy": [
        "--data.held_out=[2,7]",
        "--data.batch_size=4",
        "--data.passes_per_epoch=2",
        "--model.dropout=0.1",
        "--model.schedule=one_cycle",
    ],
    "mnist_mlp": [*SMALL_MNIST, *DISTORTED, "--model.hidden=[16]"],
    "mnist": [*SMALL_MNIST, *DISTORTED, "--model.channels=[4,4]", "--model.hidden=16", "--model.dropout=0.3"],
}
SETTINGS["mnist_explicit"] = SETTINGS["mnist"]
EPOCH = {"toy": 5, "mnist_mlp": 7, "mnist": 7, "mnist_explicit": 7}  # updates: 2 × 9 points by 4, 200 images by 32
EPOCHS = 4
PLACES = ["after two epochs", "within an epoch"]
UNSAVED = "/current_score"  # Lightning's note of the last comparison, which it neither restores nor uses
PROMISE = "a resumed run ends as the uninterrupted one, bit for bit: weights, optimiser, schedule, callbacks, metrics"


def words(experiment: str, root: str) -> list[str]:
    settings = [f"--trainer.max_epochs={EPOCHS}", "--trainer.log_every_n_steps=1", STOPPING, *SETTINGS[experiment]]
    return [experiment, *settings, *QUIET, f"--trainer.default_root_dir={root}"]


def signal_at(step: int) -> list[str]:
    return ["--trainer.callbacks+=injected.SignalAt", f"--trainer.callbacks.step={step}"]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """A nested structure as one level: its leaves by their path."""
    if isinstance(value, dict):
        parts = [flat(child, f"{name}/{key}") for key, child in value.items()]
    elif isinstance(value, list | tuple):
        parts = [flat(child, f"{name}/{index}") for index, child in enumerate(value)]
    else:
        return {name: value}
    return dict(itertools.chain.from_iterable(part.items() for part in parts))


def differences(resumed: Path, whole: Path, checkpoint: str) -> list[str]:
    """The leaves of two runs' checkpoints that are not the same; a run's own folder counts as none."""
    a, b = ({without(run, n): without(run, v) for n, v in leaves(run, checkpoint).items()} for run in (resumed, whole))
    assert len(b) > 20 and a.keys() == b.keys()
    return [name for name in b if not same(a[name], b[name]) and not name.endswith(UNSAVED)]


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit."""
    both = isinstance(a, Tensor) and isinstance(b, Tensor)
    return type(a) is type(b) and (torch.equal(a, b) if both else a == b)


def leaves(run: Path, checkpoint: str) -> dict[str, Any]:
    """All but what depends on the clock: which layouts of t-SNE were ready."""
    found = flat(load(run / "checkpoints" / checkpoint))
    return {name: value for name, value in found.items() if not name.startswith("/callbacks/TSNELogger")}


def without(run: Path, value: Any) -> Any:
    return value.replace(str(run.resolve()), "").replace(str(run), "") if isinstance(value, str) else value


def table(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").open()))


def assert_same_end(resumed: Path, whole: Path) -> None:
    for checkpoint in ("last.ckpt", "best.ckpt"):
        assert differences(resumed, whole, checkpoint) == []
    assert table(resumed) == table(whole)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.any_device
@pytest.mark.parametrize("experiment", [*SETTINGS])
def test_resumed_runs_end_as_the_uninterrupted_one(here, record_promise, experiment):
    for place in PLACES:
        device = "CPU" if experiment == "toy" else None  # its configuration says so
        record_promise(PROMISE, f"Ctrl-C {place}, `{experiment}`", group="Resume", device=device)
    assert train(*words(experiment, "whole")) == 0
    whole = only_run(here / "whole", experiment)
    start = load(whole / "checkpoints" / "best.ckpt")["global_step"]
    assert start > 0 and load(whole / "checkpoints" / "last.ckpt")["global_step"] == EPOCHS * EPOCH[experiment]
    for number, step in enumerate((2 * EPOCH[experiment], 2 * EPOCH[experiment] + 3)):
        root = f"broken{number}"
        assert train(*words(experiment, root), *signal_at(step)) == 130
        broken = only_run(here / root, experiment)
        assert load(broken / "checkpoints" / "last.ckpt")["global_step"] == step
        seed_everything(99)
        assert train("--resume", str(broken)) == 0
        assert_same_end(broken, whole)


@pytest.mark.parametrize(
    ("experiment", "options", "batch", "place"),
    [
        ("mnist", ["--trainer.accumulate_grad_batches=3"], 9, "inside a window of accumulated gradients"),
        ("toy", ["--model.accumulate_grad_batches=2"], 6, "inside a window of accumulated gradients"),
        ("mnist_explicit", ["--model.accumulate_grad_batches=3"], 9, "inside a window of accumulated gradients"),
        ("mnist", ["--trainer.val_check_interval=0.5"], 10, "right before a validation within an epoch"),
        ("mnist", ["--trainer.max_steps=10"], 10, "in the last step of a run that ends within an epoch"),
    ],
)
def test_a_signal_at_a_batch_that_cannot_be_gone_on_behind(here, record_promise, experiment, options, batch, place):
    record_promise(PROMISE, f"Ctrl-C {place}, `{experiment}`", group="Resume")
    assert train(*words(experiment, "whole"), *options) == 0
    whole = only_run(here / "whole", experiment)
    signal_in = ["--trainer.callbacks+=injected.SignalIn", "--trainer.callbacks.hook=on_train_batch_start"]
    assert train(*words(experiment, "broken"), *options, *signal_in, f"--trainer.callbacks.count={batch}") == 130
    broken = only_run(here / "broken", experiment)
    seed_everything(99)
    assert train("--resume", str(broken), STOPPING) == 0
    assert differences(broken, whole, "last.ckpt") == differences(broken, whole, "best.ckpt") == []
    tables = [table(run) for run in (broken, whole)]
    for rows in tables:
        rows[-1]["epoch"] = ""  # the test's: Lightning counts an epoch that a limit of steps cut short only at once
    assert tables[0] == tables[1]


def test_a_resumed_run_stops_early_where_the_uninterrupted_one_does(here, record_promise):
    record_promise(PROMISE, "Ctrl-C in the epoch before early stopping, `toy`", group="Resume")
    eager = "--trainer.callbacks=[{class_path: callbacks.EarlyStopping, init_args: {patience: 2, min_delta: 10}}]"
    assert train(*words("toy", "whole"), eager) == 0
    whole = only_run(here / "whole", "toy")
    assert load(whole / "checkpoints" / "last.ckpt")["global_step"] == 3 * EPOCH["toy"]  # of 4 epochs
    assert train(*words("toy", "broken"), eager, *signal_at(2 * EPOCH["toy"] + 2)) == 130
    broken = only_run(here / "broken", "toy")
    assert train("--resume", str(broken)) == 0
    assert_same_end(broken, whole)


@pytest.mark.parametrize("experiment", ["toy", pytest.param("mnist", marks=pytest.mark.faults)])
def test_a_resumed_run_in_double_precision_loses_no_digit(here, record_promise, experiment):
    record_promise(PROMISE, f"Ctrl-C within an epoch, in double precision, `{experiment}`", group="Resume")
    double = "--trainer.precision=64-true"
    assert train(*words(experiment, "whole"), double) == 0
    whole = only_run(here / "whole", experiment)
    assert train(*words(experiment, "broken"), double, *signal_at(2 * EPOCH[experiment] + 3)) == 130
    broken = only_run(here / "broken", experiment)
    assert train("--resume", str(broken)) == 0
    assert_same_end(broken, whole)


@pytest.mark.faults
def test_resume_from_every_single_step(here, record_promise):
    steps = range(1, EPOCHS * EPOCH["toy"])
    record_promise(PROMISE, "Ctrl-C at every step of a run, one after another, `toy`", len(steps), group="Resume")
    assert train(*words("toy", "whole")) == 0
    whole = only_run(here / "whole", "toy")
    for step in steps:
        assert train(*words("toy", f"broken{step}"), *signal_at(step)) == 130
        broken = only_run(here / f"broken{step}", "toy")
        assert train("--resume", str(broken)) == 0
        assert_same_end(broken, whole)


@pytest.mark.faults
def test_resume_again_and_again(here, record_promise):
    steps = [3, 7, 12, 14, 20]
    record_promise(PROMISE, "Ctrl-C again and again in one run, `mnist`", len(steps), group="Resume")
    assert train(*words("mnist", "whole")) == 0
    assert train(*words("mnist", "broken"), *signal_at(steps[0])) == 130
    broken = only_run(here / "broken", "mnist")
    for step in steps[1:]:
        assert train("--resume", str(broken), *signal_at(step)) == 130
    assert train("--resume", str(broken)) == 0
    assert_same_end(broken, only_run(here / "whole", "mnist"))


@pytest.mark.faults
@pytest.mark.parametrize("workers", [1, 2])
def test_resume_with_loader_processes(here, record_promise, workers):
    record_promise(PROMISE, "Ctrl-C within an epoch, data from loader processes, `mnist_mlp`", group="Resume")
    assert train(*words("mnist_mlp", "whole")) == 0
    assert train(*words("mnist_mlp", "broken"), f"--data.num_workers={workers}", *signal_at(17)) == 130
    broken = only_run(here / "broken", "mnist_mlp")
    assert train("--resume", str(broken)) == 0
    whole = only_run(here / "whole", "mnist_mlp")
    assert differences(broken, whole, "last.ckpt") == ["/datamodule_hyper_parameters/num_workers"]
    assert table(broken) == table(whole)


@pytest.mark.faults
@pytest.mark.real_data
@pytest.mark.parametrize("experiment", ["mnist_mlp", "mnist"])
def test_resume_on_the_real_digits(here, mnist_dir, record_promise, experiment):
    record_promise(
        PROMISE, f"Ctrl-C within an epoch of the experiment as it stands, `{experiment}`, real MNIST", group="Resume"
    )
    settings = [
        experiment,
        f"--data.data_dir={mnist_dir}",
        "--trainer.max_epochs=2",
        "--trainer.limit_train_batches=40",
        *QUIET,
    ]
    assert train(*settings, "--trainer.default_root_dir=whole") == 0
    assert train(*settings, "--trainer.default_root_dir=broken", *signal_at(55)) == 130
    broken, whole = (only_run(here / root, experiment) for root in ("broken", "whole"))
    assert train("--resume", str(broken)) == 0
    assert differences(broken, whole, "last.ckpt") == []
