"""Training runs as a person starts them: in this process, or as processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import console
from conftest import ROOT
from training import arguments, session
from training.run_directory import RUN_DIRECTORY

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL_MNIST = ["--data=injected.SmallMNIST", "--data.data_dir=none", "--data.batch_size=32"]


def train(*words: str) -> int:
    """The exit code of ``train.py`` with these words, run in this process."""
    os.environ.pop(RUN_DIRECTORY, None)
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        console.run(lambda: session.train(arguments.split(list(words)), time.monotonic()))
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        os.environ.pop(RUN_DIRECTORY, None)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def only_run(root: Path, experiment: str) -> Path:
    """The folder of the one run under ``root``."""
    (run,) = (root / "runs" / experiment).iterdir()
    return run


def command(*words: str) -> list[str]:
    """``train.py`` with these words."""
    return [sys.executable, str(ROOT / "scripts" / "train.py"), *words]


def environment(**more: str) -> dict[str, str]:
    """This one's, with ``tests/`` importable and no rank or folder of another run in it."""
    ranks = (RUN_DIRECTORY, "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in ranks}
    return kept | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"} | more


@contextmanager
def started(words: list[str], cwd: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process whose output goes to ``cwd/output.txt``; ended, with all that it started, when the block is left."""
    with (cwd / "output.txt").open("w") as output:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=environment() if env is None else env,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def members(group: int) -> list[int]:
    """The processes of a group that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended since
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def finished(words: list[str], cwd: Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and output of a process that has run to its end."""
    with started(words, cwd, env) as process:
        code = process.wait()
    return code, (cwd / "output.txt").read_text()


def load(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint, as plain data; what was on a GPU comes to the CPU, where it can be compared."""
    return torch.load(checkpoint, weights_only=True, map_location="cpu")
