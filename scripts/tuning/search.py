"""The search itself: ask for a setting, let a worker train it, prune it or record its value; stop when asked."""

import math
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from console import UserError
from tuning import jobs
from tuning.interrupts import Interrupts
from tuning.records import TrialEvents
from tuning.settings import Experiment
from tuning.storage import ERROR, HEARTBEAT_SECONDS, PROCESS, SECONDS, give_back, reclaim, this_process
from tuning.workers import DONE, REPORT, Event, Pool

POLL_SECONDS = 0.5
BAR: dict[str, Any] = {"file": sys.stderr, "dynamic_ncols": True, "mininterval": 0.5 if sys.stderr.isatty() else 10.0}
MAX_FAILURES = 6  # in a row, then something other than the settings is wrong
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass
class Running:
    """A trial that a worker trains, and the finite values that it has reported."""

    trial: Trial
    values: list[float] = field(default_factory=list)
    checks: int = 0
    pruned: bool = False


class Search:
    """Brings a study to its number of finished trials; every finished one is in the storage at once.

    Args:
        study, storage: where trials are asked for and recorded.
        experiment: what a trial trains.
        pool: the worker processes.
        events: writes the finished trials for TensorBoard.
    """

    def __init__(self, study: Study, storage: RDBStorage, experiment: Experiment, pool: Pool, events: TrialEvents):
        self.study, self.storage, self.experiment, self.pool = study, storage, experiment, pool
        self.events = events
        self._beat = -math.inf
        self._failures = 0  # in a row

    def run(self, wanted: int, timeout: float | None, interrupts: Interrupts) -> None:
        """Until ``wanted`` trials are finished, the time is up (running trials end first), or someone says stop.

        Raises:
            UserError: trial after trial fails; the last reason is given.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        finished = self._finished()
        bar = tqdm(total=max(wanted, len(finished)), initial=len(finished), unit="trial", desc="search", **BAR)
        try:
            while not interrupts.asked:
                self._keep_alive()
                finished = self._finished()
                self._show(bar, finished)
                self.events.write(finished)
                over = len(finished) >= wanted or time.monotonic() >= deadline
                if over and not self.pool.busy():
                    return
                if not over:
                    self._start_trials(wanted)
                for event in self.pool.wait(POLL_SECONDS):
                    if not interrupts.asked:  # whoever asked us may have asked the workers too
                        self._handle(event)
        finally:
            bar.close()
            for worker in self.pool.busy():  # asked to stop, or failed: nothing is lost but these trials' time
                give_back(self.study, self.study.trials[worker.job.trial.number])

    def _finished(self) -> list[FrozenTrial]:
        """The trials with a value, those of other processes too."""
        return self.study.get_trials(deepcopy=False, states=FINISHED)

    def _keep_alive(self) -> None:
        """Say that our trials live, and take back those of processes that do not."""
        if time.monotonic() - self._beat < HEARTBEAT_SECONDS / 2:
            return
        self._beat = time.monotonic()
        for worker in self.pool.busy():
            self.storage.record_heartbeat(worker.job.trial._trial_id)
        reclaim(self.study)

    def _start_trials(self, wanted: int) -> None:
        """Give every idle worker a trial, as long as finished and running ones, of all processes, are too few."""
        while self.pool.idle():
            trials = self.study.get_trials(deepcopy=False)
            running = sum(t.state == TrialState.RUNNING and PROCESS in t.user_attrs for t in trials)
            if sum(t.state in FINISHED for t in trials) + running >= wanted:
                return
            trial = self.study.ask(self.experiment.space)
            trial.set_user_attr(PROCESS, this_process())
            self.storage.record_heartbeat(trial._trial_id)
            arguments = self.experiment.with_setting(trial.params)
            self.pool.start(Running(trial), jobs.run_trial, arguments, self.experiment.monitor)

    def _handle(self, event: Event) -> None:
        """A reported value is judged; a result or a failure is recorded and frees the worker."""
        running: Running = event.worker.job
        try:
            if event.kind == REPORT:
                event.worker.answer(stop=self._prunes(running, event.content))
                return
            if event.kind == DONE and running.values:
                self._failures = 0
                best = min(running.values) if self.experiment.mode == "min" else max(running.values)
                running.trial.set_user_attr(SECONDS, event.content)
                state = TrialState.PRUNED if running.pruned else TrialState.COMPLETE
                self.study.tell(running.trial, None if running.pruned else best, state)
            else:
                self._failures += 1
                reason = event.content if event.kind != DONE else f"{self.experiment.monitor} was never finite"
                running.trial.set_user_attr(ERROR, reason)
                self.study.tell(running.trial, state=TrialState.FAIL)
                if self._failures == MAX_FAILURES:
                    raise UserError(f"{MAX_FAILURES} trials in a row have failed: {reason}")
        except (ValueError, UpdateFinishedTrialError):  # taken for dead by another process, and queued again
            if event.kind == REPORT:
                event.worker.answer(stop=True)
        if event.kind != REPORT:
            self.pool.release(event.worker)

    def _prunes(self, running: Running, value: float) -> bool:
        """Record a value; whether the trial is too poor to go on."""
        step, running.checks = running.checks, running.checks + 1
        if not math.isfinite(value):
            return False
        running.values.append(value)
        running.trial.report(value, step)
        running.pruned = running.checks != self.experiment.max_epochs and running.trial.should_prune()
        return running.pruned

    def _show(self, bar: tqdm, finished: list[FrozenTrial]) -> None:
        """Finished trials and the best value so far."""
        bar.n = len(finished)
        values = [t.value for t in finished if t.state == TrialState.COMPLETE and t.value is not None]
        best = min(values, default=None) if self.experiment.mode == "min" else max(values, default=None)
        pruned = sum(t.state == TrialState.PRUNED for t in finished)
        shown = "–" if best is None else f"{best:.4g}"
        bar.set_postfix_str(f"best {self.experiment.monitor} {shown}, {pruned} pruned", refresh=False)
        bar.update(0)
