"""SIGINT and SIGTERM wherever they arrive: the exit code says so, and a line says how to go on where one can."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from training_runs import QUIET, SMALL_MNIST, only_run, train

WORDS = ["mnist", *SMALL_MNIST, "--model.channels=[4,4]", "--model.hidden=8", "--trainer.max_epochs=2", *QUIET]
BATCHES = 14  # 2 epochs of 200 images by 32
PROMISE = "SIGINT exits 130 and SIGTERM 143 wherever they arrive, never 0; a line says how to go on, and that works"
PLACES = {
    "while the model is checked before training": ("on_sanity_check_start", 1, False),
    "in the first validation of an epoch": ("on_validation_batch_start", 2, True),  # the first is the sanity check's
    "in the last batch of the last epoch": ("on_train_batch_start", BATCHES, True),
    "in the last validation": ("on_validation_batch_start", 3, True),
    "while a checkpoint is put together": ("on_save_checkpoint", 1, True),
    "when training has ended": ("on_train_end", 1, True),
    "in the test stage": ("on_test_batch_start", 1, True),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """An empty folder; Ctrl-C as at a terminal, also where the tests were started in the background, deaf to it."""
    monkeypatch.chdir(tmp_path)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield tmp_path
    signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_ends_the_run_with_its_code(here, capfd, record_promise, place, signum, code):
    record_promise(PROMISE, f"{signal.Signals(signum).name} {place}", group="Interrupts")
    hook, count, resumable = PLACES[place]
    signal_in = ["--trainer.callbacks=[injected.SignalIn]", f"--trainer.callbacks.hook={hook}"]
    before = signal.getsignal(signal.SIGTERM)
    assert (
        train(*WORDS, *signal_in, f"--trainer.callbacks.count={count}", f"--trainer.callbacks.signum={signum}") == code
    )
    assert signal.getsignal(signal.SIGTERM) is before
    said = capfd.readouterr().out
    run = only_run(here, "mnist")
    assert (run / "checkpoints" / "last.ckpt").is_file() == ("to go on: train.py --resume" in said) == resumable
    if resumable:
        assert train("--resume", str(run), "--trainer.callbacks=null") == 0
        assert "test/accuracy" in capfd.readouterr().out
