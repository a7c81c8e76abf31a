"""CONTRIBUTING.md keeps its word: each change it shows is made in a copy of the repository, and works there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DIFFS = re.findall(r"```diff\n(.*?)```", TEXT, re.DOTALL)
FILES = dict(re.findall(r"^`([\w/.]+)`:\n\n```(?:yaml|python)\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE))
COPIED = (
    "lit_models",
    "datamodules",
    "interpretability",
    "callbacks",
    "scripts",
    "configs",
    "docs",
    "tests",
    "setup.cfg",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The repository with every change of CONTRIBUTING.md."""
    folder = tmp_path_factory.mktemp("changed")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "images"))
        else:
            shutil.copy(source, folder / name)
    for diff in DIFFS:
        subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=folder, check=True)
    for path, text in FILES.items():
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def run(copy: Path, *words: str) -> str:
    found = subprocess.run([sys.executable, *words], cwd=copy, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    return found.stdout


def test_the_changes_are_few_and_small():
    assert len(DIFFS) == 3 and set(FILES) == {"configs/digits_mlp.yaml", "epoch_seconds.py"}
    for diff in DIFFS:
        assert diff.count("+++ b/") <= 4 and len(re.findall(r"^\+(?!\+)", diff, re.MULTILINE)) <= 25


@pytest.mark.slow
def test_the_new_activation_operation_and_method_pass_the_tests_of_all(copy):
    files = ("tests/lit_models/test_mlp_gradients.py", "tests/lit_models/test_cnn_explicit.py", "tests/test_maths.py")
    files += ("tests/interpretability/test_attribution_contract.py", "tests/interpretability/test_attribution_traps.py")
    options = ("-q", "-p", "no:cacheprovider", "-k", "elu or AdaptiveAvgPool2d or ElementwiseCAM or equation")
    report = run(copy, "-m", "pytest", *options, *files)
    assert "elu" not in report.partition("short test summary")[2] and int(re.search(r"(\d+) passed", report)[1]) > 20
    collected = run(copy, "-m", "pytest", "--collect-only", *options, *files)
    assert "ElementwiseCAM" in collected and "equals_itself[AdaptiveAvgPool2d-True]" in collected


@pytest.mark.slow
def test_the_new_experiment_trains_with_the_new_callback(copy):
    options = ("--trainer.max_epochs", "2", "--trainer.callbacks+=epoch_seconds.EpochSeconds")
    words = ["digits_mlp", *options]
    start = f"import runpy, sys; sys.path[:0] = ['.', 'scripts']; sys.argv[1:] = {words}; "
    printed = run(copy, "-c", start + "runpy.run_path('scripts/train.py', run_name='__main__')")
    assert re.search(r"train/epoch_seconds +[\d.e-]+", printed)
    assert float(re.search(r"test/accuracy +(\S+)", printed)[1]) > 0.5
