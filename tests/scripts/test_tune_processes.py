"""Whole searches in processes of their own: killed, stopped, shared."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import tune_jobs
from conftest import ROOT
from tuning.storage import PROCESS
from tuning.workers import DONE, FAILED, REPORT, Pool

pytestmark = pytest.mark.processes

SMALL = ["--trainer.max_epochs=2", "--model.channels=[4,4]", "--trainer.limit_train_batches=2", "--seeds=0"]
TRIALS = 6


def start(folder: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts" / "tune.py"), "digits", f"--trials={TRIALS}", *SMALL, *words]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def trials(folder: Path, *states: TrialState) -> list:
    if not (folder / "runs/tune/digits/study.db").exists():
        return []
    try:
        study = optuna.load_study(study_name="digits", storage=f"sqlite:///{folder}/runs/tune/digits/study.db")
    except Exception:  # its tables are being made
        return []
    return study.get_trials(states=states or None)


def finished(folder: Path) -> list:
    return trials(folder, TrialState.COMPLETE, TrialState.PRUNED)


def owned(running: list) -> list:
    """Without those whose process was killed in the moment of asking."""
    return [trial for trial in running if PROCESS in trial.user_attrs]


def wait_until(condition, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def test_killed_half_way_and_started_again_it_ends_with_its_trials(tmp_path):
    process = start(tmp_path)
    wait_until(lambda: len(finished(tmp_path)) >= 2 and owned(trials(tmp_path, TrialState.RUNNING)), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = {trial.number: trial.value for trial in finished(tmp_path)}
    left = owned(trials(tmp_path, TrialState.RUNNING))
    assert 2 <= len(before) < TRIALS
    process = start(tmp_path)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    after = {trial.number: trial.value for trial in finished(tmp_path)}
    assert len(after) >= TRIALS and before.items() <= after.items()
    assert not owned(trials(tmp_path, TrialState.RUNNING))
    settings = [trial.params for trial in finished(tmp_path)]
    assert all(trial.params in settings for trial in left)  # tried again
    assert "best setting: train.py --config runs/tune/digits/digits_tuned.yaml" in output


def test_two_processes_share_a_study_and_one_can_be_stopped(tmp_path):
    first, second = start(tmp_path, "--workers=1"), start(tmp_path, "--workers=1")

    def both_have_begun() -> bool:
        return len({trial.user_attrs.get(PROCESS) for trial in trials(tmp_path)} - {None}) == 2

    wait_until(both_have_begun, first)
    os.killpg(first.pid, signal.SIGINT)
    output, errors = first.communicate()
    assert first.returncode == 130 and "Traceback" not in errors, errors
    assert f"of {TRIALS} trials finished; to go on, run the same command again" in output
    output, errors = second.communicate()
    assert second.returncode == 0, errors
    assert TRIALS <= len(finished(tmp_path)) <= TRIALS + 1
    assert not trials(tmp_path, TrialState.RUNNING)
    learning_rates = [trial.params["model.learning_rate"] for trial in finished(tmp_path)]
    assert len(set(learning_rates)) == len(learning_rates)


def test_a_worker_that_fails_or_dies_is_told_of_and_replaced(tmp_path):
    def outcome(pool: Pool, function, *arguments) -> tuple:
        pool.start(function.__name__, function, *arguments)
        while True:
            for event in pool.wait(1.0):
                if event.kind == REPORT:
                    event.worker.answer(stop=event.content > 5)
                else:
                    assert event.worker.job == function.__name__
                    pool.release(event.worker)
                    return event.kind, event.content

    with Pool(1, tmp_path / "log") as pool:
        process = pool.workers[0].process
        assert outcome(pool, tune_jobs.double, 4) == (DONE, 8)
        assert outcome(pool, tune_jobs.double, 6) == (DONE, -12)
        assert outcome(pool, tune_jobs.exhaust) == (FAILED, "MemoryError: 1 TB")
        assert pool.workers[0].process is process
        assert outcome(pool, tune_jobs.die) == (FAILED, "its process was killed by SIGKILL; out of memory?")
        assert pool.workers[0].process is not process
        assert outcome(pool, tune_jobs.double, 1) == (DONE, 2)
    assert "MemoryError: 1 TB" in (tmp_path / "log").read_text()
    assert not pool.workers[0].process.is_alive()
