"""The training command line as a person uses it: runs, files, resume, exit codes, errors."""

import csv
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer
from lightning.pytorch import seed_everything

import console
from conftest import ROOT
from lit_models import LitCNN, LitMLP
from training import arguments, session
from training.cli import BacklitCLI
from training.run_directory import MetricsFile, new_run_directory

SMALL = ["--trainer.max_epochs=2", "--model.channels=[4,4]", "--model.hidden=8", "--trainer.enable_progress_bar=false"]
TOY = ["--trainer.max_epochs=4", "--data.passes_per_epoch=3", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Runs go into an empty folder, and no process's folder leaks into another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BACKLIT_RUN_DIRECTORY", raising=False)
    yield tmp_path
    os.environ.pop("BACKLIT_RUN_DIRECTORY", None)


def train(*words: str) -> int:
    os.environ.pop("BACKLIT_RUN_DIRECTORY", None)
    with pytest.raises(SystemExit) as stop:
        console.run(lambda: session.train(arguments.split(list(words)), time.monotonic()))
    return int(stop.value.code)


def only_run(root: Path, experiment: str) -> Path:
    (run,) = (root / "runs" / experiment).iterdir()
    return run


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def test_a_run_leaves_everything_it_promises(here, capsys):
    assert train("digits", *SMALL) == 0
    run = only_run(here, "digits")
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= names
    assert "figures/test/confusion_matrix.png" in names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not any("partial" in name for name in names)
    output = capsys.readouterr().out
    assert "test/accuracy " in output and f"run {run.relative_to(here)}" in output and "tensorboard --logdir" in output
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["trainer"]["max_epochs"] == 2 and settings["model"]["init_args"]["hidden"] == 8
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val/accuracy"]) for row in rows if row["val/accuracy"]][-1] > 0.05
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2 * 20  # 1,257 images in batches of 64
    model = LitCNN.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert model.hparams["num_outputs"] == 10


def test_hyperparameters_and_figures_reach_tensorboard(here):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    assert train("toy", *TOY) == 0
    events = EventAccumulator(str(only_run(here, "toy")))
    events.Reload()
    tags = events.Tags()
    assert "train/loss" in tags["scalars"] and "regression" in tags["images"]
    assert "_hparams_/session_start_info" in events.summary_metadata
    content = HParamsPluginData.FromString(
        events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    ).session_start_info.hparams
    assert content["experiment"].string_value == "toy" and content["seed"].number_value == 0
    assert {"model.dropout", "model.learning_rate", "data.passes_per_epoch"} <= set(content)  # the names of a search
    (card,) = layout_pb2.Layout.FromString(
        events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    ).category
    assert list(card.chart[0].multiline.tag) == ["test/loss", "val/loss", "train/loss"]


@pytest.mark.parametrize("experiment", ["toy", "digits"])
@pytest.mark.parametrize("interrupt", ["between epochs", "within an epoch"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(here, monkeypatch, experiment, interrupt):
    options = TOY if experiment == "toy" else [*SMALL[1:], "--trainer.max_epochs=4", "--model.dropout=0.5"]
    assert train(experiment, *options, "--trainer.default_root_dir=whole") == 0
    whole = only_run(here / "whole", experiment) / "checkpoints" / "last.ckpt"
    stop_at = {
        "toy": {"between epochs": 6, "within an epoch": 5},
        "digits": {"between epochs": 40, "within an epoch": 47},
    }
    monkeypatch.setattr(
        sys.modules["training.cli"].StopWhenAsked, "on_train_batch_end", ask_at(stop_at[experiment][interrupt])
    )
    assert train(experiment, *options, "--trainer.default_root_dir=broken") == 130
    monkeypatch.undo()
    monkeypatch.chdir(here)
    broken = only_run(here / "broken", experiment)
    assert (
        torch.load(broken / "checkpoints/last.ckpt", weights_only=True)["global_step"] == stop_at[experiment][interrupt]
    )
    seed_everything(99)
    assert train("--resume", str(broken)) == 0
    resumed, expected = weights(broken / "checkpoints" / "last.ckpt"), weights(whole)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    steps = [row["step"] for row in csv.DictReader((broken / "metrics.csv").open()) if row["train/loss"]]
    assert steps == [
        row["step"] for row in csv.DictReader((whole.parents[1] / "metrics.csv").open()) if row["train/loss"]
    ]


def ask_at(step: int):
    """A Ctrl-C that arrives while the batch before ``step`` is running."""
    from training.interrupts import StopWhenAsked

    original = StopWhenAsked.on_train_batch_end

    def hook(self, trainer, *args):
        if trainer.global_step == step:
            self.asked = signal.SIGINT
        return original(self, trainer, *args)

    return hook


def test_a_limited_epoch_is_a_whole_one_when_resumed(here, monkeypatch):
    options = [*SMALL[1:], "--trainer.max_epochs=3", "--trainer.limit_train_batches=4"]
    assert train("digits", *options, "--trainer.default_root_dir=whole") == 0
    monkeypatch.setattr(sys.modules["training.cli"].StopWhenAsked, "on_train_batch_end", ask_at(4))
    assert train("digits", *options, "--trainer.default_root_dir=broken") == 130
    monkeypatch.undo()
    monkeypatch.chdir(here)
    broken = only_run(here / "broken", "digits")
    assert train("--resume", str(broken)) == 0
    resumed = weights(broken / "checkpoints" / "last.ckpt")
    expected = weights(only_run(here / "whole", "digits") / "checkpoints" / "last.ckpt")
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_settings_refused_on_resuming_leave_those_of_the_run(here):
    assert train("toy", *TOY, "--model.schedule=constant") == 0
    run = only_run(here, "toy")
    settings = (run / "config.yaml").read_text()
    assert train("--resume", str(run), "--trainer.max_epochs=2") == 2
    assert (run / "config.yaml").read_text() == settings
    assert train("--resume", str(run)) == 0
    assert train("--resume", str(run), "--trainer.max_epochs=6") == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 6


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_a_run_is_not_resumed_past_the_end_of_its_schedule(here, capsys, schedule):
    assert train("toy", *TOY, f"--model.schedule={schedule}") == 0
    run = only_run(here, "toy")
    kept = [run / "config.yaml", run / "metrics.csv", run / "checkpoints" / "last.ckpt"]
    before = [path.read_bytes() for path in kept]
    assert train("--resume", str(run), "--trainer.max_epochs=6") == 2
    assert "schedule was planned for" in capsys.readouterr().err
    assert train("--resume", str(run), "--trainer.max_epochs=2") == 2
    assert "has begun 4 epochs already" in capsys.readouterr().err
    assert [path.read_bytes() for path in kept] == before
    assert train("--resume", str(run)) == 0


def test_a_longer_run_is_refused_where_the_trainer_steps_the_schedule(here, capsys):
    assert train("digits", *SMALL, "--trainer.limit_train_batches=2") == 0
    assert train("--resume", str(only_run(here, "digits")), "--trainer.max_epochs=3") == 2
    assert "schedule was planned for 4 steps, this run would end at 6" in capsys.readouterr().err
    settings = (only_run(here, "digits") / "config.yaml").read_bytes()
    more = ["--trainer.max_epochs=4", "--trainer.limit_train_batches=1"]  # as many steps, of which all are done
    assert train("--resume", str(only_run(here, "digits")), *more) == 2
    assert "schedule was planned for 4 steps, this run would end at 6" in capsys.readouterr().err
    assert (only_run(here, "digits") / "config.yaml").read_bytes() == settings


def test_a_whole_number_of_batches_is_one_whatever_types_were_named_before(here, monkeypatch):
    hints = Trainer.__init__.__annotations__
    for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"):
        monkeypatch.setitem(hints, name, float | int | None)
    monkeypatch.setitem(hints, "overfit_batches", float | int)
    monkeypatch.setitem(hints, "val_check_interval", float | int | None)
    words = [f"--trainer.{name}=1" for name in hints if name.endswith("_batches") and name != "accumulate_grad_batches"]
    cli = BacklitCLI(arguments.split(["digits", *SMALL, *words, "--trainer.val_check_interval=1"]), write_run=False)
    options = [getattr(cli.trainer, word[10:-2]) for word in words] + [cli.config["trainer"]["val_check_interval"]]
    assert options == [1] * 6 and not any(isinstance(value, float) for value in options)
    cli = BacklitCLI(arguments.split(["digits", *SMALL, "--trainer.limit_val_batches=1.0"]), write_run=False)
    assert isinstance(cli.trainer.limit_val_batches, float)


def test_a_run_stopped_within_an_epoch_is_not_resumed_to_end_before_it(here, monkeypatch, capsys):
    words = ["digits", *SMALL[1:], "--trainer.max_epochs=3", "--trainer.limit_train_batches=4"]
    monkeypatch.setattr(sys.modules["training.cli"].StopWhenAsked, "on_train_batch_end", ask_at(6))
    assert train(*words) == 130
    monkeypatch.undo()
    monkeypatch.chdir(here)
    run = only_run(here, "digits")
    rows = (run / "metrics.csv").read_bytes()
    assert train("--resume", str(run), "--trainer.max_epochs=1") == 2
    assert "has begun 2 epochs already" in capsys.readouterr().err
    assert (run / "metrics.csv").read_bytes() == rows


@pytest.mark.parametrize("every", [0, 3])
@pytest.mark.parametrize("words", [["toy", *TOY], ["digits", *SMALL, "--trainer.limit_train_batches=8"]])
def test_the_loss_is_logged_at_the_steps_asked_for(here, words, every):
    assert train(*words, f"--trainer.log_every_n_steps={every}") == 0
    rows = list(csv.DictReader((only_run(here, words[0]) / "metrics.csv").open()))
    name = "train/loss_step" if words[0] == "toy" else "train/loss"
    logged = [int(row["step"]) for row in rows if row.get(name)]
    assert logged == ([2, 5, 8, 11, 14] if words[0] == "digits" else [2, 5, 8, 11])[: 99 if every else 0]


@pytest.mark.parametrize("content", [b"epoch,loss\n0,1\n", bytes(range(256)) * 8], ids=["no steps", "no text"])
def test_a_table_that_is_none_is_named_on_resuming(here, capsys, content):
    assert train("toy", *TOY, "--model.schedule=constant") == 0
    table = only_run(here, "toy") / "metrics.csv"
    table.write_bytes(content)
    assert train("--resume", str(table.parent), "--trainer.max_epochs=6") == 2
    assert "metrics.csv is no table of a run" in capsys.readouterr().err


@pytest.mark.processes
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_run_with_a_checkpoint_to_go_on_from(here, signum, code):
    command = [sys.executable, str(ROOT / "scripts/train.py"), "toy", "--trainer.max_epochs=100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not list(here.glob("runs/toy/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(signum)
    output, _ = process.communicate()
    assert process.returncode == code, output
    run = only_run(here, "toy")
    assert f"train.py --resume {run.relative_to(here)}" in output and "Traceback" not in output
    LitMLP.load_from_checkpoint(run / "checkpoints" / "last.ckpt", weights_only=True)


def test_evaluate_repeats_the_test_stage(here, capsys, monkeypatch):
    assert train("digits", *SMALL) == 0
    trained = capsys.readouterr().out
    run = only_run(here, "digits")
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(run), "--data.eval_batch_size=100"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "scripts" / "evaluate.py"), run_name="__main__")
    assert stop.value.code == 0
    evaluated = capsys.readouterr().out.strip().splitlines()
    assert [line.split()[0] for line in evaluated] == [
        w.split()[0] for w in trained.splitlines() if w.startswith("test/")
    ]
    assert [line for line in evaluated if "accuracy" in line] == [
        w for w in trained.splitlines() if "test/accuracy" in w
    ]
    assert (run / "evaluation" / "figures" / "test" / "confusion_matrix.png").is_file()
    assert sorted(path.name for path in here.iterdir()) == ["runs"]


def test_help_is_quick_and_needs_no_torch():
    code = (
        "import sys, runpy; sys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('scripts/train.py', run_name='__main__')\n"
        "finally: print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    ).stdout
    assert output.splitlines()[-1] == "False"
    for experiment in arguments.experiments():
        assert f"  {experiment} " in output


def test_two_runs_of_one_second_get_different_folders(here, monkeypatch):
    folders = []
    for _ in range(3):
        monkeypatch.delenv("BACKLIT_RUN_DIRECTORY", raising=False)
        folders.append(new_run_directory(here, "toy"))
    assert len(set(folders)) == 3
    assert new_run_directory(here, "toy") == folders[-1].resolve()  # a process that the run started


def test_metrics_file_drops_what_a_resumed_run_does_again(tmp_path):
    first = MetricsFile(tmp_path)
    for step in range(4):
        first.log_metrics({"train/loss": float(step)}, step)
    first.finalize("failed")
    second = MetricsFile(tmp_path)
    second.log_metrics({"train/loss": 20.0}, 2)
    second.log_metrics({"val/loss": 1.0}, 2)
    second.finalize("success")
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [(row["step"], row["train/loss"], row["val/loss"]) for row in rows] == [
        ("0", "0.0", ""),
        ("1", "1.0", ""),
        ("2", "20.0", "1.0"),
    ]


ERRORS = [
    (["digts"], "unknown experiment 'digts'; did you mean 'digits'?"),
    (["digits", "--config", "none.yaml"], "--config: there is no file none.yaml"),
    (["--resume", "nowhere"], "--resume: there is no checkpoint nowhere"),
    (["toy", "--resume", "nowhere"], "--resume goes on with the run's own settings"),
    (
        ["digits", "--model.learning_rat=3"],
        "unknown option '--model.learning_rat'; did you mean '--model.learning_rate'?",
    ),
    (["digits", "--trainer.max_epoch=3"], "unknown option '--trainer.max_epoch'; did you mean '--trainer.max_epochs'?"),
    (["digits", "--model.learning_rate=-3"], "learning_rate must be"),
    (["digits", "--model.learning_rate=abc"], "--model.learning_rate must be a number, not abc"),
    (["digits", "--data.batch_size=0"], "batch_size must be at least 1, got 0"),
    (["digits", "--model=LitCN"], "unknown class 'LitCN'; did you mean 'LitCNN'?"),
    (["digits", "--model.num_outputs=5"], "--model.num_outputs is 5, but DigitsDataModule has 10"),
    (
        ["digits", "--trainer.callbacks+=EarlyStop"],
        "unknown class 'EarlyStop'; did you mean 'callbacks.EarlyStopping'?",
    ),
    (["digits", "--checkpoint.mode=mi"], "--checkpoint.mode must be one of min, max, not mi"),
    (["toy", "--data.held_out=[12]"], "there is no point 12"),
    (["toy", "--model.activation=tan"], "unknown activation 'tan'; did you mean 'tanh'?"),
    (["mnist", "--data.mirrors=[http://127.0.0.1:9]"], "MNIST is not in data/MNIST/raw"),
]


@pytest.mark.parametrize(("words", "message"), ERRORS, ids=[" ".join(words) for words, _ in ERRORS])
def test_errors_a_user_can_cause(here, capsys, words, message):
    assert train(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = lines[next(i for i, line in enumerate(lines) if line.startswith("error: ")) :]
    assert message in errors[0] and len(errors) <= 5
    assert not list(here.rglob("*.ckpt"))


def test_the_same_shape_given_by_hand_is_accepted(here):
    assert train("digits", *SMALL, "--model.init_args.num_outputs=10", "--trainer.fast_dev_run=true") == 0
