"""A full disk, a read-only folder, one that vanishes: said in one line each, and what was written stays whole."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import ROOT
from training.checkpoints import AtomicCheckpoints
from training_runs import QUIET, SMALL_MNIST, command, finished, load, started, train

pytestmark = pytest.mark.faults
GROUP = "Writes"
ENDLESS = "--trainer.max_epochs=100000"
RUNS = {
    "toy": ["toy", ENDLESS, "--data.passes_per_epoch=5", "--trainer.log_every_n_steps=1"],
    "mnist_mlp": ["mnist_mlp", *SMALL_MNIST, ENDLESS, "--model.hidden=[64]"],
    "digits": ["digits", ENDLESS, "--model.channels=[4,4]", "--model.hidden=16"],
}
MEGABYTES = 60


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def wait_for_checkpoint(here: Path, process: subprocess.Popen) -> Path:
    """The folder of the run, once it has written both checkpoints and its table."""
    while True:
        assert process.poll() is None, (here / "output.txt").read_text()
        for path in here.glob("**/checkpoints/last.ckpt"):
            if path.with_name("best.ckpt").exists():
                return path.parents[1]
        time.sleep(0.05)


def assert_loud(code: int | None, output: str, *named: str) -> None:
    """Exit code 2 and one error of one line that names the file or its folder, without a traceback."""
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    assert code == 2 and len(errors) == 1 and "Traceback" not in output, output
    assert all(word in errors[0] for word in named), errors[0]


def assert_whole(run: Path) -> None:
    """Everything in the folder that can be read is."""
    steps = [load(run / "checkpoints" / name)["global_step"] for name in ("last.ckpt", "best.ckpt")]
    assert min(steps) > 0
    for path in run.rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    for path in run.rglob("*.npz"):
        with np.load(path) as arrays:
            assert arrays.files and all(arrays[name].shape is not None for name in arrays.files)
    if (run / "metrics.csv").exists():
        lines = (run / "metrics.csv").read_text().splitlines()
        assert len({line.count(",") for line in lines}) == 1
    assert (run / "config.yaml").read_text().rstrip()


@pytest.mark.parametrize("experiment", [*RUNS])
def test_a_disk_that_fills_up_while_training(disk, tmp_path, record_promise, experiment):
    promise = "a full disk ends a run with exit code 2 and one line that names the file; what was written is whole"
    record_promise(promise, f"a small disk filled up while training, `{experiment}`", group=GROUP)
    words = [*RUNS[experiment], f"--trainer.default_root_dir={disk}", *QUIET]
    with started(command(*words), tmp_path) as process:
        run = wait_for_checkpoint(disk, process)
        fill(disk)
        code = process.wait()
    assert_loud(code, (tmp_path / "output.txt").read_text(), str(run), "No space left on device")
    assert_whole(run)
    (disk / "filler").unlink()
    code, output = finished(
        command("--resume", str(run), "--trainer.max_steps=1000", "--trainer.max_time=00:00:00:05"), tmp_path
    )
    assert code == 0, output


def test_a_checkpoint_that_does_not_fit_leaves_the_earlier_one(disk, record_promise):
    record_promise("a checkpoint is whole or not there", "a larger one written over it on a full disk", group=GROUP)
    path, files = disk / "last.ckpt", AtomicCheckpoints()
    files.save_checkpoint({"weights": torch.arange(1000)}, path)
    fill(disk)
    with pytest.raises(OSError, match="No space left on device") as error:
        files.save_checkpoint({"weights": torch.arange(2_000_000)}, path)
    assert error.value.filename == str(path)
    assert torch.equal(load(path)["weights"], torch.arange(1000))
    assert sorted(child.name for child in disk.iterdir()) == ["filler", "last.ckpt"]


def test_a_full_disk_at_the_start(disk, tmp_path, record_promise):
    promise = "a full disk ends a run with exit code 2 and one line that names the file; what was written is whole"
    record_promise(promise, "a disk full before the run, `toy`", group=GROUP)
    fill(disk)
    code, output = finished(command("toy", f"--trainer.default_root_dir={disk}", *QUIET), tmp_path)
    assert_loud(code, output, str(disk), "No space left on device")


def test_a_read_only_folder(disk, tmp_path, monkeypatch, record_promise):
    promise = "a read-only folder ends a run with exit code 2 and one line that names it, nothing in it changed"
    record_promise(promise, "a new run, and a resumed one, on a disk mounted read-only", 2, group=GROUP)
    monkeypatch.chdir(tmp_path)
    toy = ["toy", "--trainer.max_epochs=2", "--data.passes_per_epoch=2", f"--trainer.default_root_dir={disk}", *QUIET]
    assert train(*toy) == 0
    (run,) = (disk / "runs" / "toy").iterdir()
    before = contents(disk)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    code, output = finished(command(*toy), tmp_path)
    assert_loud(code, output, str(disk), "Read-only file system")
    code, output = finished(command("--resume", str(run), "--trainer.max_epochs=4"), tmp_path)
    assert_loud(code, output, str(run), "Read-only file system")
    assert contents(disk) == before
    assert_whole(run)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("experiment", [*RUNS])
def test_a_folder_that_vanishes_while_training(tmp_path, record_promise, experiment):
    promise = "a run's folder that vanishes ends the run with exit code 2 and one line that names it"
    record_promise(promise, f"the folder moved away while training, `{experiment}`", group=GROUP)
    words = [*RUNS[experiment], f"--trainer.default_root_dir={tmp_path / 'root'}", *QUIET]
    with started(command(*words), tmp_path) as process:
        run = wait_for_checkpoint(tmp_path / "root", process)
        os.rename(run, tmp_path / "away")
        code = process.wait()
    assert_loud(code, (tmp_path / "output.txt").read_text(), str(run), "No such file or directory")
    assert_whole(tmp_path / "away")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory) -> Path:
    """A trained network to explain."""
    root = tmp_path_factory.mktemp("trained")
    small = ["--trainer.max_epochs=1", "--model.channels=[4,4]", "--model.hidden=16", "--trainer.callbacks=null"]
    assert train("digits", *small, f"--trainer.default_root_dir={root}", *QUIET) == 0
    (run,) = (root / "runs" / "digits").iterdir()
    return run


def explain(name: str, run: Path, output: Path) -> list[str]:
    words = {
        "saliency": ["explain.py", "saliency", "--model", run, "--samples=2", "--method=Saliency", "--output", output],
        "page": ["explain.py", "page", "--model", run, "--samples=1", "--output", output / "page.html"],
        "attack": ["explain.py", "attack", "--model", run, "--samples=2", "--output", output],
        "regression": ["regression.py", "--updates=20", "--seeds=1", "--final-seeds=1", "--output", output],
    }[name]
    script, *rest = map(str, words)
    return [*command()[:1], str(ROOT / "scripts" / script), *rest]


@pytest.mark.parametrize("name", ["saliency", "regression"])
def test_a_full_disk_under_pictures_arrays_and_tables(disk, tmp_path, small_run, record_promise, name):
    promise = "a full disk ends a command with exit code 2 and one line; earlier pictures, arrays and tables are whole"
    record_promise(promise, f"the same command again, on a disk that has become full, `{name}`", group=GROUP)
    words = explain(name, small_run, disk / "out")
    code, output = finished(words, tmp_path)
    assert code == 0, output
    before = {path: content for path, content in contents(disk).items() if "events" not in path}
    assert len(before) >= 2
    fill(disk)
    code, output = finished(words, tmp_path)
    assert_loud(code, output, "No space left on device")
    after = contents(disk)
    assert {path: after[path] for path in before} == before
    assert not [path for path in after if "partial" in path or "tmp" in Path(path).name]


def test_pictures_that_cannot_be_written_are_one_warning(tmp_path, record_promise):
    promise = "pictures that cannot be written are one warning, and training goes on"
    record_promise(promise, "the folder figures/ replaced by a file while training, `digits`", group=GROUP)
    words = ["digits", "--trainer.max_epochs=40", "--model.channels=[4,4]", f"--trainer.default_root_dir={tmp_path}"]
    with started(command(*words, *QUIET), tmp_path) as process:
        run = wait_for_checkpoint(tmp_path, process)
        while (run / "figures").is_dir():
            shutil.rmtree(run / "figures", ignore_errors=True)
        (run / "figures").write_text("a file where the folder should be")
        code = process.wait()
    output = (tmp_path / "output.txt").read_text()
    assert code == 0, output
    for name in ("SaliencySnapshots", "TSNELogger"):
        assert sum(f"{name}: " in line and "training goes on" in line for line in output.splitlines()) == 1, output
