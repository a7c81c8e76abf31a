"""Tasks 1 and 2 (a): the fits of the eleven points, and networks trained on digits."""

import csv
import statistics
from typing import Any

import yaml

from exercising.workspace import ROOT, Workspace, metrics

SEEDS = (0, 1, 2)


def regression(work: Workspace) -> dict[str, Any]:
    """Every regulariser on the eleven points: the table and two of the pictures."""
    output = work.runs / "regression"
    work.command("regression.py", "--output", output, shown="python scripts/regression.py")
    with (output / "regression.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("regression", "learning_curves"):
        work.picture(f"task1-{name.replace('_', '-')}.png", output / f"{name}.png")
    texts = ("variant", "seconds")
    return {
        row["variant"].replace(" ", "_"): {k: float(v) for k, v in row.items() if k not in texts and v} for row in rows
    }


def digits(work: Workspace) -> dict[str, Any]:
    """The small CNN on the embedded digits."""
    return trained(work, "digits", SEEDS[:1])


def mnist(work: Workspace) -> dict[str, Any]:
    """The CNN on MNIST, once for each seed; the pictures are those of the last, which the other stages use."""
    found = trained(work, "mnist", SEEDS, "--data.data_dir", work.data_dir)
    figures = work.run_folder("mnist") / "figures" / "test"
    work.picture("task2-confusion.png", newest(figures, "confusion_matrix"))
    work.picture("task2-mistakes.png", newest(figures, "worst_mistakes"))
    return {"seeds": SEEDS, **found}


def mnist_mlp(work: Workspace) -> dict[str, Any]:
    """The network whose every gradient is a formula, on MNIST."""
    return trained(work, "mnist_mlp", SEEDS[:1], "--data.data_dir", work.data_dir)


def trained(work: Workspace, experiment: str, seeds: tuple[int, ...], *options: object) -> dict[str, Any]:
    """The results of a run for each seed, by their log keys, and their means."""
    runs = []
    for seed in reversed(seeds):  # the first seed, the default, runs last: its run is the newest
        words = ("train.py", experiment, "--seed_everything", seed, "--trainer.enable_progress_bar", "false")
        shown = f"python scripts/train.py {experiment} --seed_everything {seed}"
        printed = work.command(*words, *options, "--trainer.default_root_dir", work.runs, shown=shown)
        runs.append({key.replace("/", "_"): value for key, value in metrics(printed).items()})
    runs.reverse()
    means = {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
    settings = yaml.safe_load((ROOT / "configs" / f"{experiment}.yaml").read_text(encoding="utf-8"))
    return {"runs": runs, "mean": means, "epochs": settings["trainer"]["max_epochs"]}


def newest(folder, stem: str):
    """The picture called ``stem``, of the last epoch that drew it."""
    return sorted(folder.glob(f"{stem}*.png"))[-1]
