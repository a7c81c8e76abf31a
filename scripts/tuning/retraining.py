"""The chosen setting trained anew from several seeds, each tested once; means with their 95 % interval."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.study import Study
from scipy.stats import t as student
from tqdm import tqdm

from console import UserError
from training.arguments import Arguments
from tuning import jobs
from tuning.interrupts import Interrupts
from tuning.search import BAR
from tuning.settings import Experiment
from tuning.workers import DONE, REPORT, Pool

Result = dict[str, Any]  # seed, metrics, run


def retrain(
    study: Study, number: int, tuned: Path, experiment: Experiment, seeds: int, pool: Pool, interrupts: Interrupts
) -> list[Result]:
    """Train the setting of trial ``number`` from ``seeds`` seeds that the search did not use, and test each.

    Results are kept with the study: a seed that is trained is neither trained nor tested again.

    Raises:
        UserError: a run fails; its reason is given.
    """
    wanted = [experiment.seed + 1 + index for index in range(seeds)]
    results = {seed: study.user_attrs[_key(number, seed)] for seed in wanted if _key(number, seed) in study.user_attrs}
    waiting = [seed for seed in wanted if seed not in results]
    bar = tqdm(total=seeds, initial=len(results), unit="seed", desc="retraining", **BAR)
    with bar:
        while (waiting or pool.busy()) and not interrupts.asked:
            bar.update(0)
            while waiting and pool.idle():
                seed = waiting.pop(0)
                run = Arguments(tuned.stem, [tuned], [f"--seed_everything={seed}"])
                pool.start(seed, jobs.run_chosen, run, experiment.monitor)
            for event in pool.wait(0.5):
                if event.kind == REPORT:
                    event.worker.answer(stop=False)
                    continue
                seed = event.worker.job
                pool.release(event.worker)
                if event.kind != DONE:
                    raise UserError(f"the run of the best setting with seed {seed} failed: {event.content}")
                results[seed] = event.content
                study.set_user_attr(_key(number, seed), event.content)
                bar.update(1)
    return [{"seed": seed, **results[seed]} for seed in wanted if seed in results]


def _key(number: int, seed: int) -> str:
    return f"trial {number}, seed {seed}"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval by Student's t; NaN for a single value."""
    n = len(values)
    if n < 2:
        return float(np.mean(values)), math.nan
    return float(np.mean(values)), float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def summary(results: Sequence[Result], monitor: str) -> list[str]:
    """Each metric of the test, and the monitored one: its mean over the seeds with a 95 % interval."""
    if not results:
        return []
    shared = set.intersection(*(set(result["metrics"]) for result in results))
    tested = sorted(key for key in shared if key.startswith("test/") and not key.endswith(("_low", "_high")))
    keys = [*tested, *({monitor} & shared)]
    width = max(map(len, keys), default=0)
    lines = []
    for key in keys:
        mean, half = interval([result["metrics"][key] for result in results])
        spread = "" if math.isnan(half) else f" ± {half:.4f}"
        lines.append(f"{key:<{width}} {mean:.4f}{spread}")
    return lines


def table(results: Sequence[Result]) -> list[Mapping[str, Any]]:
    """A row for each seed: its metrics and its run."""
    keys = sorted({key for result in results for key in result["metrics"] if key.startswith(("test/", "val/"))})
    return [{"seed": r["seed"], **{key: r["metrics"].get(key, "") for key in keys}, "run": r["run"]} for r in results]
