"""A whole study from its command line: search, report, retrain the best setting."""

from argparse import Namespace
from pathlib import Path

from filelock import FileLock
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from callbacks import tensorboard_command
from console import called
from interpretability.drawing import save_figure
from training.session import quiet_libraries
from tuning import drawing, records, retraining, storage
from tuning.interrupts import Interrupts
from tuning.records import TrialEvents
from tuning.search import FINISHED, Search
from tuning.settings import Experiment, write_tuned
from tuning.workers import Pool, available_cores

MAX_DEFAULT_WORKERS = 4


def tune(experiment: Experiment, options: Namespace) -> int | None:
    """Bring the study to its trials, report, and try the best setting; the exit code where it was stopped."""
    quiet_libraries()
    storage.quiet_optuna()
    name = options.study or experiment.name
    folder = experiment.root / "runs" / "tune" / name
    folder.mkdir(parents=True, exist_ok=True)
    workers = options.workers or min(available_cores(), MAX_DEFAULT_WORKERS)
    with storage.reachable(), Interrupts() as interrupts:
        database = storage.open_storage(options.storage or storage.sqlite_url(folder / "study.db"))
        study = storage.open_study(database, name, experiment)
        print(f"study {name}: {len(experiment.space)} options, {experiment.monitor}, {folder}")
        with Pool(workers, folder / "workers.log") as pool:
            events = TrialEvents(folder, experiment.monitor)
            Search(study, database, experiment, pool, events).run(options.trials, options.timeout, interrupts)
            if not interrupts.asked:
                with FileLock(folder / "report.lock"):  # processes that share the folder: one after another
                    best = report(study, experiment, folder)
                    if best is not None and options.seeds:
                        try_chosen(study, best, experiment, folder, options.seeds, pool, interrupts)
        if interrupts.asked:
            finished = len(study.get_trials(deepcopy=False, states=FINISHED))
            print(f"stopped with {finished} of {options.trials} trials finished; to go on, run the same command again")
            return interrupts.exit_code
    print(f"watch: {tensorboard_command(folder)}")
    return None


def report(study: Study, experiment: Experiment, folder: Path) -> FrozenTrial | None:
    """The ranking, the pictures and the best setting's file; the best trial, None where none is complete."""
    trials = records.ranked(study, experiment)
    rows = records.table(trials, experiment)
    if rows:
        records.write_csv(folder / "trials.csv", rows)
    counts = {state: sum(trial.state == state for trial in trials) for state in (*FINISHED, TrialState.FAIL)}
    print(", ".join(f"{count} trials {state.name.lower()}" for state, count in counts.items() if count) or "no trials")
    records.print_table(rows)
    figures = drawing.draw(study, experiment)
    for name, figure in figures.items():
        save_figure(figure, folder / "figures" / f"{name}.png", dpi=140)
    if not counts[TrialState.COMPLETE]:
        return None
    best = trials[0]
    remark = f"the best of {counts[TrialState.COMPLETE]} complete trials: {experiment.monitor} {best.value:.5g}"
    write_tuned(tuned_file(folder, experiment), experiment, best.params, remark)
    print(f"pictures {folder / 'figures'}, all trials {folder / 'trials.csv'}")
    print(f"best setting: {called('train')} --config {tuned_file(folder, experiment)}")
    return best


def tuned_file(folder: Path, experiment: Experiment) -> Path:
    """The best setting's YAML; its name is that of the runs made with it."""
    return folder / f"{experiment.name}_tuned.yaml"


def try_chosen(
    study: Study,
    best: FrozenTrial,
    experiment: Experiment,
    folder: Path,
    seeds: int,
    pool: Pool,
    interrupts: Interrupts,
) -> None:
    """Retrain the best setting and print what the test says."""
    tuned = tuned_file(folder, experiment)
    results = retraining.retrain(study, best.number, tuned, experiment, seeds, pool, interrupts)
    if interrupts.asked or not results:
        return
    records.write_csv(folder / "retrained.csv", retraining.table(results))
    print(f"trial {best.number} trained anew from {seeds} seeds, mean ± half of the 95 % interval (Student's t):")
    print("\n".join(retraining.summary(results, experiment.monitor)))
    print(f"runs {Path(results[0]['run']).parent}, a row for each in {folder / 'retrained.csv'}")
