"""A study without processes: scripted workers, a real storage, real trials run in this process."""

import csv
import os
import subprocess
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from console import UserError
from training import arguments
from tuning import jobs, records, retraining, search, settings, storage, study
from tuning.interrupts import Interrupts
from tuning.search import Search
from tuning.workers import DONE, FAILED, REPORT, Event

SMALL = ["--trainer.max_epochs=2", "--model.channels=[4,4]", "--trainer.limit_train_batches=3"]
SMALL += ["--trainer.accelerator=cpu"]
SPACE = """
tune:
  model.learning_rate: {low: 0.001, high: 0.03, log: true}
  model.hidden: [8, 16, 128]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BACKLIT_RUN_DIRECTORY", raising=False)
    storage.quiet_optuna()
    yield tmp_path
    os.environ.pop("BACKLIT_RUN_DIRECTORY", None)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    path.write_text(SPACE)
    return settings.read(arguments.split(["digits", f"--config={path}", *SMALL]))


@pytest.fixture
def database(here):
    return storage.open_storage(storage.sqlite_url(here / "study.db"))


class ScriptedWorker:
    job = None

    def answer(self, stop: bool) -> None:
        if stop:
            self.events = [event for event in self.events if event[0] != REPORT]


class ScriptedPool:
    """One worker; ``script`` gives a job's events: its values, then DONE; or why it fails."""

    def __init__(self, script):
        self.script, self.worker, self.started = script, ScriptedWorker(), []

    def idle(self):
        return [self.worker] if self.worker.job is None else []

    def busy(self):
        return [self.worker] if self.worker.job is not None else []

    def start(self, job, function, *args):
        self.started.append((function, args))
        self.worker.job = job
        script = self.script(len(self.started) - 1)
        if isinstance(script, str):
            self.worker.events = [(FAILED, script)]
        else:
            self.worker.events = [(REPORT, value) for value in script] + [(DONE, 1.5)]

    def wait(self, seconds):
        return [Event(self.worker, *self.worker.events.pop(0))] if self.worker.job is not None else []

    def release(self, worker):
        worker.job = None


def run_search(experiment, database, script, trials, interrupts=None):
    opened = storage.open_study(database, "s", experiment)
    events = records.TrialEvents(Path("tuned"), experiment.monitor)
    with interrupts or Interrupts() as stop:
        Search(opened, database, experiment, ScriptedPool(script), events).run(trials, None, stop)
        events.write(opened.get_trials(states=search.FINISHED))
    return opened


def states(opened) -> list[str]:
    return [trial.state.name for trial in opened.trials]


def test_the_best_validation_counts_and_poor_trials_are_pruned(experiment, database):
    good, poor = [0.5, 0.2, 0.3], [0.9, 0.8, 0.7]
    opened = run_search(experiment, database, lambda n: poor if n == 7 else good, trials=9)
    assert states(opened) == ["COMPLETE"] * 7 + ["PRUNED", "COMPLETE"]
    assert {t.value for t in opened.trials if t.state == TrialState.COMPLETE} == {0.2}
    assert opened.trials[7].intermediate_values == {0: 0.9}
    assert opened.trials[0].params == {"model.learning_rate": 0.005, "model.hidden": 128}  # the experiment's own


def test_failures_are_recorded_and_the_study_goes_on(experiment, database):
    script = {1: "OutOfMemoryError: 1 TB", 2: [float("nan"), float("inf")], 3: [float("nan"), 0.4]}
    opened = run_search(experiment, database, lambda n: script.get(n, [0.5]), trials=3)
    assert states(opened) == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert [t.user_attrs["error"] for t in opened.trials[1:3]] == [
        "OutOfMemoryError: 1 TB",
        "val/loss was never finite",
    ]
    assert opened.trials[3].value == 0.4
    rows = records.table(records.ranked(opened, experiment), experiment)
    assert [(row["rank"], row["trial"], row["state"]) for row in rows] == [
        (1, 3, "complete"),
        (2, 0, "complete"),
        (3, 4, "complete"),
        ("", 1, "fail"),
        ("", 2, "fail"),
    ]
    assert rows[3]["remark"] == "OutOfMemoryError: 1 TB" and rows[1]["remark"] == "the experiment's own setting"


def test_a_study_in_which_all_fails_ends(experiment, database):
    with pytest.raises(UserError, match="6 trials in a row have failed: no such metric"):
        run_search(experiment, database, lambda n: "no such metric", trials=3)


def test_asked_to_stop_it_keeps_what_is_finished_and_repeats_what_was_running(experiment, database):
    interrupts = Interrupts()

    def script(n: int) -> list[float]:
        interrupts.asked = 2 if n == 2 else 0
        return [0.5]

    opened = run_search(experiment, database, script, 5, interrupts)
    assert states(opened) == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]
    resumed = run_search(experiment, database, lambda n: [0.4], 5)
    assert resumed.trials[3].params == resumed.trials[2].params
    assert [t.state.name for t in resumed.trials].count("COMPLETE") == 5


def test_trials_of_dead_processes_are_repeated_and_those_of_living_ones_are_not(experiment, database):
    opened = storage.open_study(database, "s", experiment)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    host = storage.this_process().rpartition(":")[0]
    owners = [f"{host}:{dead.stdout.strip()}", storage.this_process(), "another-machine:1"]
    for owner in owners:
        opened.ask(experiment.space).set_user_attr(storage.PROCESS, owner)
    storage.reclaim(opened)
    assert states(opened) == ["FAIL", "RUNNING", "RUNNING", "WAITING"]
    assert opened.trials[3].params == opened.trials[0].params and not opened.trials[3].user_attrs


def longer(experiment):
    return {**experiment.settings, "trainer": {**experiment.settings["trainer"], "max_epochs": 3}}


CHANGES = {
    "another space: model.hidden was choices [8, 16, 128], is absent": lambda e: {
        "space": {"model.learning_rate": e.space["model.learning_rate"]}
    },
    "space: model.learning_rate was low 0.001, high 0.03, log True, is low 0.001, high 0.3, log True": lambda e: {
        "space": {**e.space, "model.learning_rate": FloatDistribution(0.001, 0.3, log=True)}
    },
    "other settings: trainer.max_epochs was 2, is 3": lambda e: {"settings": longer(e)},
    "another metric: monitor was val/loss, is val/accuracy": lambda e: {"monitor": "val/accuracy"},
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_study_whose_space_or_settings_have_changed_is_refused(experiment, database, message):
    storage.open_study(database, "s", experiment)
    changed = replace(experiment, **CHANGES[message](experiment))
    with pytest.raises(UserError) as error:
        storage.open_study(database, "s", changed)
    assert message in str(error.value)
    storage.open_study(database, "other", changed)
    assert len(storage.open_study(database, "s", experiment).trials) == 1  # as it was


def test_of_processes_that_open_a_study_together_one_enqueues_the_experiments_own_setting(experiment, here):
    url = storage.sqlite_url(here / "study.db")
    databases = [storage.open_storage(url) for _ in range(4)]
    for name in "abcde":
        with ThreadPoolExecutor(4) as pool:
            opened = list(pool.map(partial(storage.open_study, name=name, experiment=experiment), databases))
        assert [len(study.trials) for study in opened] == [1] * 4


def test_a_study_whose_maker_was_killed_at_once_is_completed(experiment, database):
    optuna.create_study(storage=database, study_name="s", direction="minimize")
    assert len(storage.open_study(database, "s", experiment).trials) == 1
    assert len(storage.open_study(database, "s", experiment).trials) == 1


def test_a_file_of_ones_own_replaces_the_space_and_places_do_not_matter(here, experiment):
    assert set(experiment.space) == {"model.learning_rate", "model.hidden"}
    run = replace(experiment.arguments, rest=[*SMALL, "--trainer.default_root_dir=x", "--model.hidden=16"])
    assert settings.read(run).fingerprint() == experiment.fingerprint()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("sqlite:///text.db", "file is not a database"),
        ("nonsense", "--storage must be an address such as sqlite:///study.db, not 'nonsense'"),
        ("nosuchbase://user:secret@host/x", "nosuchbase"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_named_without_its_password(here, url, message):
    (here / "text.db").write_text("this is not a database, and long enough to be none" * 10)
    with pytest.raises(UserError, match=message) as error:
        storage.open_storage(url)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_option_in_the_space_is_named_with_the_nearest(here):
    (here / "space.yaml").write_text("tune: {model.learning_rat: {low: 0.1, high: 0.2}}")
    with pytest.raises(UserError, match=r"'--model.learning_rat'; did you mean '--model.learning_rate'"):
        settings.read(arguments.split(["digits", "--config=space.yaml"]))
    (here / "space.yaml").write_text("tune: {model.hidden: [16, many]}")
    with pytest.raises(UserError, match=r"--model.hidden must be a whole number, not many"):
        settings.read(arguments.split(["digits", "--config=space.yaml"]))


@pytest.mark.parametrize("words", [["--checkpoint.monitor=train/loss"], ["--checkpoint.monitor=null"]])
def test_a_search_needs_a_validation_metric(here, words):
    with pytest.raises(UserError, match="a search needs a validation metric"):
        settings.read(arguments.split(["digits", *words]))


@pytest.mark.parametrize("name", ["digits", "mnist", "mnist_mlp"])
def test_every_space_fits_its_experiment(here, name):
    read = settings.read(arguments.split([name]))
    assert len(read.space) >= 4 and read.own_setting() is not None


def test_trials_in_tensorboard_are_written_once_with_curve_and_hyperparameters(here, experiment, database):
    opened = run_search(experiment, database, lambda n: [0.5, 0.1 * (n + 1)], trials=2)
    folders = sorted(Path("tuned/trials").iterdir())
    assert [folder.name for folder in folders] == ["0000", "0001"]
    assert sorted(path.name for path in Path("tuned").iterdir()) == ["trials"]
    events = EventAccumulator(str(folders[1]))
    events.Reload()
    assert [round(e.value, 6) for e in events.Scalars("val/loss")] == [0.5, 0.2]
    assert [round(e.value, 6) for e in events.Scalars("objective/val/loss")] == [0.2]
    assert "_hparams_/session_start_info" in events.summary_metadata
    before = {path: path.stat().st_mtime_ns for path in Path("tuned").rglob("events*")}
    records.TrialEvents(Path("tuned"), "val/loss").write(opened.trials)
    assert {path: path.stat().st_mtime_ns for path in Path("tuned").rglob("events*")} == before


def test_a_trial_reports_every_epoch_stops_when_told_and_leaves_no_trace(here, experiment):
    reported: list[float] = []

    def report(value: float) -> bool:
        reported.append(value)
        return len(reported) == 3

    run = experiment.with_setting({"model.hidden": 8, "model.learning_rate": 0.02})
    assert jobs.run_trial(report, run, "val/loss") > 0 and len(reported) == 2
    run.rest.append("--trainer.max_epochs=5")
    jobs.run_trial(report, run, "val/loss")
    assert len(reported) == 3 and len(set(reported)) == 3
    with pytest.raises(UserError, match="unknown metric 'val/los'; did you mean 'val/loss'"):
        jobs.run_trial(report, run, "val/los")
    assert list(here.iterdir()) == []


def test_the_best_setting_is_reported_and_runs_from_its_file(here, experiment, database, capsys):
    opened = run_search(experiment, database, lambda n: [0.5, 0.4 - 0.05 * n], trials=5)
    best = study.report(opened, experiment, Path("tuned"))
    assert best is not None and best.number == 4
    text = Path("tuned/digits_tuned.yaml").read_text()
    tuned = yaml.safe_load(text)
    assert tuned["model"]["init_args"]["learning_rate"] == best.params["model.learning_rate"]
    assert tuned["trainer"]["max_epochs"] == 2 and "tune" not in tuned and text.startswith("# the best of 5")
    shown = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()]
    assert shown[1:] == [["1", "4"], ["2", "3"], ["3", "2"], ["4", "1"], ["5", "0"]]
    with open("tuned/trials.csv") as file:
        assert [row["trial"] for row in csv.DictReader(file)] == ["4", "3", "2", "1", "0"]
    names = {path.name for path in Path("tuned/figures").iterdir()}
    assert names == {"history.png", "slices.png", "importance.png"}
    run = arguments.Arguments("digits_tuned", [Path("tuned/digits_tuned.yaml")], ["--seed_everything=1"])
    result = jobs.run_chosen(lambda value: False, run, "val/loss")
    assert 0 < result["metrics"]["test/accuracy"] < 1
    (folder,) = Path("runs/digits_tuned").iterdir()
    assert str(folder) == result["run"] and (folder / "checkpoints/best.ckpt").is_file()


class RetrainingPool(ScriptedPool):
    """Its jobs end with a run's metrics."""

    def start(self, job, function, *args):
        super().start(job, function, *args)
        self.worker.events[-1] = (DONE, {"metrics": {"test/accuracy": job / 10}, "run": f"runs/{job}"})


def test_a_seed_is_trained_and_tested_once(here, experiment, database):
    opened = storage.open_study(database, "s", experiment)
    pool = RetrainingPool(lambda n: [0.1])
    for seeds in (2, 2, 3):
        with Interrupts() as stop:
            results = retraining.retrain(opened, 0, here / "t.yaml", experiment, seeds, pool, stop)
        assert [(r["seed"], r["metrics"]["test/accuracy"]) for r in results] == [(1, 0.1), (2, 0.2), (3, 0.3)][:seeds]
    assert [args[0].rest for _, args in pool.started] == [[f"--seed_everything={seed}"] for seed in (1, 2, 3)]


def test_options_that_cannot_be_are_named(here, monkeypatch):
    import tune

    for words, message in (
        (["--trials=0"], "--trials must be at least 1, not 0"),
        (["--trial=3"], "unknown option '--trial'; did you mean '--trials'?"),
        (["--study=a/b"], "--study must be the name of a folder, not a/b"),
        (["--timeout=0"], "--timeout must be above 0, not 0.0"),
    ):
        options, rest = tune.parser().parse_known_args(words)
        assert isinstance(options, Namespace)
        with pytest.raises(UserError) as error:
            tune.check(options, rest)
        assert str(error.value) == message
