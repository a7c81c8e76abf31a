"""What is left of a search: a table of its trials, ranked, and each trial in TensorBoard."""

import csv
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from torch.utils.tensorboard import SummaryWriter

from console import shorten
from interpretability.whole_files import whole_file
from tuning.settings import Experiment
from tuning.storage import ERROR, SECONDS

SHOWN = 10  # settings on the terminal


def ranked(study: Study, experiment: Experiment) -> list[FrozenTrial]:
    """Complete trials, best first; then pruned ones, those that got furthest first; then failed ones."""
    sign = 1 if experiment.mode == "min" else -1
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1, TrialState.FAIL: 2}

    def key(trial: FrozenTrial) -> tuple:
        value = trial.value if trial.state == TrialState.COMPLETE else None
        return order[trial.state], 0 if value is None else sign * value, -len(trial.intermediate_values), trial.number

    ended = study.get_trials(deepcopy=False, states=tuple(order))
    return sorted((t for t in ended if t.state != TrialState.FAIL or ERROR in t.user_attrs), key=key)


def table(trials: Sequence[FrozenTrial], experiment: Experiment) -> list[dict[str, Any]]:
    """A row for each trial: rank (of complete ones), number, state, value, its setting, epochs, seconds, error."""
    own = experiment.own_setting()
    rows = []
    for rank, trial in enumerate(trials, start=1):
        complete = trial.state == TrialState.COMPLETE
        rows.append(
            {
                "rank": rank if complete else "",
                "trial": trial.number,
                "state": trial.state.name.lower(),
                experiment.monitor: f"{trial.value:.5g}" if complete else "",
                **{name: in_digits(trial.params.get(name, "")) for name in experiment.space},
                "checks": len(trial.intermediate_values),
                "seconds": in_digits(trial.user_attrs.get(SECONDS, "")),
                "remark": trial.user_attrs.get(ERROR, "the experiment's own setting" if trial.params == own else ""),
            }
        )
    return rows


def in_digits(value: Any) -> str:
    """Three significant digits of a real number; anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The best settings as aligned text, options by the last part of their name."""
    rows = [row for row in rows if row["rank"]][:SHOWN]
    if not rows:
        return
    shown = [{n.rpartition(".")[2]: shorten(str(v), 40) for n, v in row.items() if n != "state"} for row in rows]
    widths = {name: max(len(name), *(len(row[name]) for row in shown)) for name in shown[0]}
    for row in ({name: name for name in widths}, *shown):
        print("  ".join(f"{row[n]:<{w}}" if n == "remark" else f"{row[n]:>{w}}" for n, w in widths.items()).rstrip())


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table as CSV, whole or not at all."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


class TrialEvents:
    """``trials/NNNN`` of the study's folder: a trial's learning curve and hyper-parameters for TensorBoard.

    Written as trials finish, by whichever process sees it first; also those of other machines.

    Args:
        folder: the study's folder.
        monitor: the metric's key.
    """

    def __init__(self, folder: Path, monitor: str):
        self.folder, self.monitor = folder / "trials", monitor
        self.folder.mkdir(parents=True, exist_ok=True)
        self.written = {path.name for path in self.folder.iterdir()}

    def write(self, trials: Sequence[FrozenTrial]) -> None:
        """The trials that are not there yet, each whole or not at all."""
        for trial in trials:
            name = f"{trial.number:04d}"
            if name in self.written:
                continue
            self.written.add(name)
            with tempfile.TemporaryDirectory(dir=self.folder.parent, prefix="partial-") as temporary:
                self._write_one(Path(temporary) / name, trial)
                try:
                    os.replace(Path(temporary) / name, self.folder / name)
                except OSError:  # another process has written it
                    if not (self.folder / name).is_dir():
                        raise

    def _write_one(self, folder: Path, trial: FrozenTrial) -> None:
        steps = sorted(trial.intermediate_values.items())
        value = trial.value if trial.state == TrialState.COMPLETE else steps[-1][1]
        with SummaryWriter(str(folder)) as writer:
            for step, intermediate in steps:
                writer.add_scalar(self.monitor, intermediate, step)
            params = {**trial.params, "state": trial.state.name.lower()}
            writer.add_hparams(params, {f"objective/{self.monitor}": value}, run_name=".", global_step=len(steps))
