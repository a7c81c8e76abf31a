"""Several processes: they end with the same weights as one process with the same batches, or all of them end."""

import csv
import math
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from training_runs import QUIET, SMALL_MNIST, command, finished, members, only_run, started, train

STEPS = 50
GROUP = "Several processes"
EXACT = ["--trainer.precision=64-true", f"--trainer.max_steps={STEPS}", "--trainer.max_epochs=-1"]
REPORT = "{class_path: callbacks.TestReport}"
SETTINGS = {
    "toy": ["--data.held_out=[2,5,7]", "--data.passes_per_epoch=4"],
    "mnist_mlp": [
        *SMALL_MNIST[:2],
        "--data.val_size=41",
        "--data.n_train=241",
        "--model.dropout=0",
        "--model.hidden=[16]",
    ],
    "mnist": [
        *SMALL_MNIST[:2],
        "--data.val_size=41",
        "--data.n_train=241",
        "--model.dropout=0",
        "--model.channels=[4,4]",
    ],
}
BATCH = {"toy": 2, "mnist_mlp": 16, "mnist": 16}
TWO_RANKS = ["--trainer.accelerator=cpu", "--trainer.devices=2"]
SMALL_TOY = ["toy", "--trainer.max_epochs=100000", "--data.passes_per_epoch=2", *QUIET]
PATIENCE_SECONDS = 900  # for processes that ought to end by themselves


def words(experiment: str, batch_size: int, folder: Path) -> list[str]:
    dump = f"--trainer.callbacks=[{REPORT}, {{class_path: injected.Dump, init_args: {{folder: '{folder}'}}}}]"
    options = [dump, "--trainer.log_every_n_steps=1", f"--data.batch_size={batch_size}", *SETTINGS[experiment]]
    if experiment == "mnist":
        options += ["--model.batch_norm=false", "--model.hidden=16"]
    return [experiment, *EXACT, *options, *QUIET]


def rows(run: Path) -> list[dict[str, float]]:
    return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader((run / "metrics.csv").open())]


def assert_one_run(here: Path, experiment: str) -> Path:
    """All ranks wrote into one folder, and ended with the same weights."""
    first, second = (torch.load(here / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["weights"].keys() == second["weights"].keys() and first["steps"] == second["steps"] > 0
    for name, tensor in first["weights"].items():
        assert torch.equal(tensor, second["weights"][name]), name
    assert first["metrics"] == second["metrics"]
    return only_run(here, experiment)


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param("toy", marks=pytest.mark.faults),
        pytest.param("mnist_mlp", marks=pytest.mark.processes),
        pytest.param("mnist", marks=pytest.mark.processes),
    ],
)
def test_two_ranks_end_as_one_process_with_the_same_batches(tmp_path, monkeypatch, record_promise, experiment):
    promise = "two processes end with the same weights, those of one process with the same global batches to 1e-6"
    row = record_promise(promise, f"{STEPS} steps in float64, `{experiment}`", group=GROUP)
    batch = BATCH[experiment]
    code, output = finished(command(*words(experiment, batch, tmp_path), *TWO_RANKS), tmp_path)
    assert code == 0, output
    two = assert_one_run(tmp_path, experiment)
    dumped = torch.load(tmp_path / "rank0.pt", weights_only=True)
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    assert train(*words(experiment, 2 * batch, tmp_path / "one")) == 0
    alone = torch.load("rank0.pt", weights_only=True)
    assert alone["steps"] == dumped["steps"] == STEPS
    apart = max(float((dumped["weights"][name] - tensor).abs().max()) for name, tensor in alone["weights"].items())
    row["figure"] = f"apart by {apart:.0e}"
    assert apart < 1e-6
    logged = rows(only_run(tmp_path / "one", experiment))
    assert len(logged) >= STEPS and any("val/loss" in row for row in logged)
    for ours, expected in zip(rows(two), logged, strict=True):
        assert ours == pytest.approx(expected, rel=1e-5, abs=1e-6)


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options, str(ROOT / "scripts" / "train.py")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.faults
def test_torchrun_makes_one_run_of_its_processes(tmp_path, record_promise):
    record_promise(
        "under torchrun all processes share one run folder and one set of weights", "2 processes", group=GROUP
    )
    launcher = torchrun("--standalone", "--nproc_per_node=2")
    code, output = finished([*launcher, *words("toy", 2, tmp_path), *TWO_RANKS], tmp_path)
    assert code == 0, output
    assert (assert_one_run(tmp_path, "toy") / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.faults
def test_two_machines_make_one_run(tmp_path, record_promise):
    promise = "under torchrun all processes share one run folder and one set of weights"
    record_promise(promise, "2 machines, as two launchers on one, `mnist_mlp`", group=GROUP)
    nodes = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    options = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=2"]
    train_words = [*words("mnist_mlp", 16, tmp_path), f"--trainer.default_root_dir={tmp_path}", *options]
    (tmp_path / "second").mkdir()
    with started([*torchrun(*nodes, "--node_rank=1"), *train_words], tmp_path / "second") as second:
        code, output = finished([*torchrun(*nodes, "--node_rank=0"), *train_words], tmp_path)
        assert code == 0, output
        assert second.wait() == 0
    assert_one_run(tmp_path, "mnist_mlp")


def assert_all_end(words: list[str], here: Path) -> str:
    """No process is left after a while, and the one that was started says that it failed; its output."""
    with started(words, here) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
            process.poll()
        assert members(process.pid) == []
        assert process.returncode not in (0, None)
    return (here / "output.txt").read_text()


FAULTS = {
    "an exception": ["--trainer.callbacks+=injected.RaiseAt"],
    "SIGKILL": ["--trainer.callbacks+=injected.SignalAt", f"--trainer.callbacks.signum={int(signal.SIGKILL)}"],
}
LAUNCHERS = {"train.py": command(), "torchrun": torchrun("--standalone", "--nproc_per_node=2")}


def fails_on_one_rank(here: Path, record_promise, fault: str, rank: int, launcher: str) -> None:
    promise = "one rank that fails ends the run on all, with a non-zero exit"
    record_promise(promise, f"{fault} on rank {rank}, started by {launcher}", group=GROUP)
    injected = [*FAULTS[fault], "--trainer.callbacks.step=25", f"--trainer.callbacks.rank={rank}"]
    output = assert_all_end([*LAUNCHERS[launcher], *SMALL_TOY, *TWO_RANKS, *injected], here)
    assert fault != "an exception" or "injected" in output
    last = only_run(here, "toy") / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] > 0


@pytest.mark.processes
def test_a_rank_that_is_killed_ends_the_run_on_all(tmp_path, record_promise):
    fails_on_one_rank(tmp_path, record_promise, "SIGKILL", 1, "train.py")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("fault", "rank", "launcher"),
    [(f, r, name) for f in FAULTS for r in (0, 1) for name in LAUNCHERS if (f, r, name) != ("SIGKILL", 1, "train.py")],
)
def test_any_rank_that_fails_ends_the_run_on_all(tmp_path, record_promise, fault, rank, launcher):
    fails_on_one_rank(tmp_path, record_promise, fault, rank, launcher)


@pytest.mark.faults
@pytest.mark.parametrize("rank", [1])  # any but the one that says how to go on
def test_an_interrupted_run_on_two_ranks_goes_on_as_if_nothing_were(tmp_path, record_promise, rank):
    record_promise(
        "two processes, resumed, end as the uninterrupted two, bit for bit",
        f"Ctrl-C on rank {rank} within an epoch, `mnist_mlp`",
        group=GROUP,
    )
    for root in ("whole", "broken"):
        (tmp_path / root).mkdir()
    options = ["--model.dropout=0.2", "--data.degrees=8", *TWO_RANKS]
    code, output = finished(command(*words("mnist_mlp", 16, tmp_path / "whole"), *options), tmp_path / "whole")
    assert code == 0, output
    stop = ["--trainer.callbacks+=injected.SignalAt", "--trainer.callbacks.step=24", f"--trainer.callbacks.rank={rank}"]
    broken = tmp_path / "broken"
    code, output = finished(command(*words("mnist_mlp", 16, broken), *options, *stop), broken)
    assert code == 130, output
    code, output = finished(command("--resume", str(only_run(broken, "mnist_mlp"))), broken)
    assert code == 0, output
    a, b = (torch.load(root / "rank0.pt", weights_only=True) for root in (broken, tmp_path / "whole"))
    assert a["steps"] == b["steps"] == STEPS and all(
        torch.equal(a["weights"][name], b["weights"][name]) for name in b["weights"]
    )
    assert math.isfinite(a["metrics"]["train/loss"]) and a["metrics"] == b["metrics"]
