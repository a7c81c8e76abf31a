"""Command lines run in this process up to the point where they would start to work.

Every entry goes its own way: ``sys.argv``, its ``main``, its parser and its checks. Where the work begins a
:class:`Parsed` ends it with exit code 0.
"""

import importlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

import benchmark
import console
import evaluate
import explain
import regression
import train
import tune
from explaining import inputs

EXPLANATIONS = tuple(explain.SUBCOMMANDS)
MAINS: dict[str, Callable[[], int | None]] = {
    "train": train.main,
    "evaluate": evaluate.main,
    "regression": regression.main,
    "benchmark": benchmark.main,
    "tune": tune.main,
    "explain": explain.main,
    **{f"explain {name}": explain.main for name in EXPLANATIONS},
}


class Parsed(SystemExit):
    """The command line was understood; the work would begin here."""


@dataclass(frozen=True)
class Outcome:
    """How a command line ended."""

    code: int
    out: str
    error: str


def stop(*args: Any, **kwargs: Any) -> NoReturn:
    """Stand in for the first step of the work."""
    raise Parsed(0)


@contextmanager
def parsing_only() -> Iterator[None]:
    """Inside, no command line trains, explains or measures."""
    from training.cli import BacklitCLI

    loading = inputs.load

    def load(args: Any) -> NoReturn:
        loading(args)
        stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BacklitCLI, "instantiate_classes", stop)
        patch.setattr(inputs, "load", load)
        patch.setattr(importlib.import_module("explaining.features"), "choose", stop)
        patch.setattr(importlib.import_module("regressing.experiment"), "total_progress", stop)
        patch.setattr(benchmark, "versions", stop)
        patch.setattr(importlib.import_module("tuning.study"), "tune", stop)
        yield


@contextmanager
def building_only() -> Iterator[None]:
    """Inside, models, data and Trainer are made as well, and images explained; nothing trains, searches or measures."""
    session = importlib.import_module("training.session")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "fit_and_test", stop)
        patch.setattr(session, "run_test_stage", stop)
        patch.setattr(importlib.import_module("regressing.experiment"), "total_progress", stop)
        patch.setattr(benchmark, "versions", stop)
        patch.setattr(importlib.import_module("tuning.study"), "tune", stop)
        yield


def run(command: str, words: Sequence[str]) -> Outcome:
    """Run ``command`` with ``words``; anything but an exit goes through as the traceback it would be."""
    name, *before = command.split()
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.setattr(sys, "argv", [f"{name}.py", *before, *words])
        patch.delenv("BACKLIT_RUN_DIRECTORY", raising=False)
        try:
            console.run(MAINS[command])
        except SystemExit as end:
            return Outcome(int(end.code or 0), out.getvalue(), error.getvalue())


def option_names(command: str) -> list[str]:
    """Every option that ``command`` shows in its help."""
    words = ["digits", "--help"] if command in ("train", "evaluate") else ["--help"]
    text = run("train" if command == "evaluate" else command, words).out
    return sorted({word.strip("[],'") for word in text.split() if word.startswith(("--", "[--"))} | {"--help"})


def checkpoint_files(folder: Path) -> Path:
    """A tiny finished run in ``folder``; its checkpoint."""
    import torch

    from lit_models import LitCNN

    torch.manual_seed(0)  # of so few units all may be dead otherwise
    model = LitCNN(channels=(2, 2), kernel_size=3, hidden=4)
    path = folder / "runs" / "digits" / "one" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    versions = {"epoch": 0, "global_step": 1, "pytorch-lightning_version": "2.6.0"}
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), **versions}, path)
    settings = (Path(train.__file__).parents[1] / "configs" / "digits.yaml").read_text(encoding="utf-8")
    (path.parents[1] / "config.yaml").write_text(settings, encoding="utf-8")
    return path
