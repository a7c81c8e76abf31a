"""SIGKILL at any moment: the checkpoints that are there are whole, and the run can go on from them."""

import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from training_runs import QUIET, SMALL_MNIST, command, load, only_run, started, train

# checkpoints of 12 MB after every second update: most of the run's time goes into writing them
HEAVY = ["mnist_mlp", *SMALL_MNIST, "--data.batch_size=100", "--model.hidden=[800,800]", "--model.schedule=constant"]
WORDS = [*HEAVY, "--trainer.max_epochs=100000", "--trainer.callbacks=null", *QUIET]


@pytest.fixture
def elsewhere(tmp_path) -> Iterator[Path]:
    """A folder on another file system than the temporary files', where there is one: renaming across is copying."""
    shared_memory = Path("/dev/shm")
    if not os.access(shared_memory, os.W_OK) or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared_memory) as folder:
        yield Path(folder)


def kill_again_and_again(here: Path, times: int) -> None:
    """Start, kill, look at the checkpoints, and go on from them, ``times`` times over."""
    moments = random.Random(0)
    words, reached = WORDS, -1
    for _ in range(times):
        with started(command(*words), here) as process:
            last = wait_for_progress(here, process, reached)
            time.sleep(moments.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        best = last.with_name("best.ckpt")
        steps = [load(path)["global_step"] for path in (last, best)]
        assert max(steps) > reached
        names = {path.name for path in last.parent.iterdir()}
        assert all(name in ("last.ckpt", "best.ckpt") or fnmatch(name, ".*.ckpt.*.partial") for name in names)
        reached, words = steps[0], ["--resume", str(last.parents[1])]


def wait_for_progress(here: Path, process, reached: int) -> Path:
    """Until ``last.ckpt`` is there and newer than the one that the last kill left."""
    before = {path: path.stat().st_mtime_ns for path in here.glob("runs/*/*/checkpoints/last.ckpt")}
    while True:
        assert process.poll() is None, (here / "output.txt").read_text()
        for path in here.glob("runs/*/*/checkpoints/last.ckpt"):
            if path.stat().st_mtime_ns > before.get(path, 0) and path.with_name("best.ckpt").exists():
                return path
        time.sleep(0.02)


PROMISE = "the checkpoints that are there load, and the run goes on from them"


@pytest.mark.processes
def test_a_killed_run_leaves_whole_checkpoints(elsewhere):
    kill_again_and_again(elsewhere, 1)


@pytest.mark.faults
def test_twenty_kills_leave_whole_checkpoints(elsewhere, record_promise):
    record_promise(PROMISE, "SIGKILL at a random moment of a run that writes most of the time", 20, group="Interrupts")
    kill_again_and_again(elsewhere, 20)


@pytest.mark.faults
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_at_random_moments(tmp_path, monkeypatch, record_promise, signum, code):
    name = signal.Signals(signum).name
    row = record_promise(
        f"{name} exits {code}, with a last.ckpt that loads and resumes, events flushed, a line that says how to go on",
        f"{name} at a random moment after the first batch, `digits`",
        5,
        group="Interrupts",
    )
    moments, steps = random.Random(code), []
    monkeypatch.chdir(tmp_path)
    for attempt in range(row["tries"]):
        root = f"--trainer.default_root_dir=try{attempt}"
        words = ["digits", "--trainer.max_epochs=1000", "--model.channels=[4,4]", "--trainer.log_every_n_steps=1", root]
        with started(command(*words, *QUIET), tmp_path) as process:
            while not list(tmp_path.glob(f"try{attempt}/runs/digits/*/checkpoints/last.ckpt")):
                assert process.poll() is None, (tmp_path / "output.txt").read_text()
                time.sleep(0.02)
            time.sleep(moments.uniform(0, 2))
            process.send_signal(signum)
            assert process.wait() == code
        run = only_run(tmp_path / f"try{attempt}", "digits")
        output = (tmp_path / "output.txt").read_text()
        assert f"train.py --resume {run.relative_to(tmp_path)}" in output and "Traceback" not in output
        step = load(run / "checkpoints" / "last.ckpt")["global_step"]
        assert logged_steps(run) >= step - 1
        assert train("--resume", str(run), f"--trainer.max_steps={step + 3}", "--trainer.callbacks=null") == 0
        assert load(run / "checkpoints" / "last.ckpt")["global_step"] >= step
        steps.append(step)
    row["figure"] = "stopped at steps " + ", ".join(map(str, sorted(steps)))


def logged_steps(run: Path) -> int:
    """The last step of ``train/loss`` in the run's TensorBoard events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return max(scalar.step for scalar in EventAccumulator(str(run)).Reload().Scalars("train/loss"))
