"""The study in its storage: opened, checked, and freed of trials whose process is gone."""

import copy
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from console import UserError, shorten
from tuning.sampling import SeededTPE
from tuning.settings import Experiment

HEARTBEAT_SECONDS, GRACE_SECONDS, MAX_RETRIES = 10, 60, 3
LOCK_SECONDS = 60  # how long SQLite waits for another process
MADE_BY_ANOTHER = ("already exists", "UNIQUE constraint failed: alembic_version")
PRUNING_STARTS_AFTER = 5  # trials, and a third of the epochs
PROCESS, ERROR, SECONDS = "process", "error", "seconds"  # user attributes of a trial


def quiet_optuna() -> None:
    """Its progress is shown by a bar; heartbeats, which it calls experimental, are meant."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")
    logging.getLogger("alembic").setLevel(logging.ERROR)


def sqlite_url(path: Path) -> str:
    """The address of a database file."""
    return URL.create("sqlite", database=str(path.resolve())).render_as_string()


def open_storage(url: str) -> RDBStorage:
    """The storage at an address that SQLAlchemy knows.

    Raises:
        UserError: it cannot be reached; the address is named without its password.
    """
    try:
        shown = make_url(url).render_as_string(hide_password=True)
        sqlite = make_url(url).get_backend_name() == "sqlite"
    except SQLAlchemyError as error:
        raise UserError(f"--storage must be an address such as sqlite:///study.db, not {url!r}") from error
    options = {"connect_args": {"timeout": LOCK_SECONDS}} if sqlite else {"pool_pre_ping": True}
    for attempt in range(5):  # processes that start together may be making the tables at the same moment
        try:
            return RDBStorage(
                url,
                options,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=queue_again,
            )
        except Exception as error:  # drivers fail in their own ways
            if any(words in str(error) for words in MADE_BY_ANOTHER) and attempt < 4:
                time.sleep(0.2)
                continue
            reason = str(error.__cause__ or error).strip() or type(error).__name__
            raise UserError(f"the storage {shown} cannot be reached: {shorten(reason.splitlines()[0], 200)}") from error
    raise AssertionError


@contextmanager
def reachable() -> Iterator[None]:
    """A storage that goes away while it is used becomes an error of one line."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"the storage failed: {shorten(reason, 200)}; finished trials are kept, to go on run the same command again"
        ) from error


def open_study(storage: RDBStorage, name: str, experiment: Experiment) -> Study:
    """The study of this name, new or gone on with; the experiment's own setting is its first trial.

    Raises:
        UserError: it searches another space, or was made with other settings; the first difference is named.
    """
    study, new = _create_or_load(storage, name, experiment)
    about = {
        "space": {option: distribution_to_json(range_) for option, range_ in experiment.space.items()},
        "settings": experiment.fingerprint(),
        "metric": {"monitor": experiment.monitor, "mode": experiment.mode},
    }
    about = json.loads(json.dumps(about))
    stored = {} if new else _stored_by_its_maker(study)
    if "about" not in stored:  # new, or whoever made it was killed in that moment
        if (own := experiment.own_setting()) is not None:
            study.enqueue_trial(own, skip_if_exists=True)
        study.set_user_attr("about", about)
        return study
    for part, made in stored["about"].items():
        now = about[part]
        if part == "settings":  # another version of a library may know other options
            made, now = ({key: values[key] for key in made.keys() & now.keys()} for values in (made, now))
        if difference := _first_difference(made, now):
            other = f"other {part}" if part == "settings" else f"another {part}"
            raise UserError(f"study {name!r} has {other}: {difference}; --study NAME starts a new one")
    return study


def _create_or_load(storage: RDBStorage, name: str, experiment: Experiment) -> tuple[Study, bool]:
    """The study, and whether this process made it: of several that start together exactly one does."""
    sampler = SeededTPE(experiment.seed)
    pruner = optuna.pruners.MedianPruner(PRUNING_STARTS_AFTER, experiment.max_epochs // 3)
    direction = {"min": "minimize", "max": "maximize"}[experiment.mode]
    try:
        return optuna.create_study(
            storage=storage, study_name=name, direction=direction, sampler=sampler, pruner=pruner
        ), True
    except optuna.exceptions.DuplicatedStudyError:
        return optuna.load_study(storage=storage, study_name=name, sampler=sampler, pruner=pruner), False


def _stored_by_its_maker(study: Study) -> dict[str, Any]:
    """What the study says of itself; a process that makes it right now is given two seconds."""
    for _ in range(20):
        if "about" in study.user_attrs:
            break
        time.sleep(0.1)
    return study.user_attrs


def _first_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    for key in sorted(old | new):
        if old.get(key) != new.get(key):
            before, after = (
                shorten(_in_words(values[key]), 90) if key in values else "absent" for values in (old, new)
            )
            return f"{key} was {before}, is {after}"
    return ""


def _in_words(value: Any) -> str:
    """A value of a setting, or a distribution without what Optuna wraps around it."""
    if isinstance(value, str) and value.startswith("{"):
        value = {k: v for k, v in json.loads(value)["attributes"].items() if v is not None and v is not False}
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value)


def this_process() -> str:
    """Machine and process number, for others on this machine to see whether it still lives."""
    return f"{platform.node()}:{os.getpid()}"


def is_gone(process: str) -> bool:
    """Whether ``process`` ran on this machine and has ended; False where that cannot be known."""
    host, _, pid = process.rpartition(":")
    if host != platform.node() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def queue_again(study: Study, trial: FrozenTrial) -> None:
    """The same setting is tried again by whoever asks next, a few times at most."""
    trial = copy.copy(trial)
    trial.user_attrs = {}
    RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)(study, trial)


def give_back(study: Study, trial: FrozenTrial) -> None:
    """End a running trial that will not finish, and queue its setting again."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):  # another process was quicker
        return
    queue_again(study, trial)


def reclaim(study: Study) -> None:
    """Queue again what processes left behind that died: known at once on this machine, by heartbeat elsewhere."""
    fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get(PROCESS)
        age = datetime.now() - (trial.datetime_start or datetime.now())
        # without an owner its process died in the moment of asking, before the first heartbeat
        if age.total_seconds() > GRACE_SECONDS if owner is None else is_gone(owner):
            give_back(study, trial)
