"""The search space, what is suggested from it, and the summary of several seeds."""

import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import ttest_1samp

from console import UserError
from tuning import retraining, space
from tuning.sampling import SeededTPE

SPACE = {
    "model.learning_rate": {"low": 0.001, "high": 0.1, "log": True},
    "model.hidden": {"low": 32, "high": 128, "step": 32},
    "model.channels": [[4, 4], [8, 8]],
    "model.schedule": ["one_cycle", "constant"],
}


def test_ranges_and_choices_become_distributions():
    assert space.parse(SPACE, "x.yaml") == {
        "model.learning_rate": FloatDistribution(0.001, 0.1, log=True),
        "model.hidden": IntDistribution(32, 128, step=32),
        "model.channels": CategoricalDistribution(["[4, 4]", "[8, 8]"]),
        "model.schedule": CategoricalDistribution(["one_cycle", "constant"]),
    }


def test_a_setting_is_written_as_options_of_train():
    setting = {"model.channels": "[4, 4]", "model.schedule": "constant", "model.batch_norm": True, "data.seed": None}
    assert space.words(setting) == [
        "--model.channels=[4, 4]",
        "--model.schedule=constant",
        "--model.batch_norm=true",
        "--data.seed=null",
    ]


def test_samples_hold_every_end_and_choice():
    parsed = space.parse({**SPACE, "data.batch_size": [1, 2, 3]}, "x.yaml")
    found = space.samples(parsed)
    assert {s["model.learning_rate"] for s in found} == {0.001, 0.1}
    assert {s["data.batch_size"] for s in found} == {1, 2, 3}
    assert all(space.contains(parsed, sample) for sample in found)


@pytest.mark.parametrize(
    "change",
    [{"model.hidden": 48}, {"model.hidden": 160}, {"model.learning_rate": 0.2}, {"model.schedule": "cosine"}],
    ids=str,
)
def test_what_lies_outside_is_not_contained(change):
    parsed = space.parse(SPACE, "x.yaml")
    inside = {
        "model.learning_rate": 0.01,
        "model.hidden": 64,
        "model.channels": "[8, 8]",
        "model.schedule": "constant",
    }
    assert space.contains(parsed, inside) and not space.contains(parsed, inside | change)


ERRORS = [
    (None, "x.yaml has no search space"),
    ([1], "x.yaml has no search space"),
    ({"a.b": 3}, "tune: a.b must be a list of choices, or"),
    ({"a.b": []}, "tune: a.b must be a list of choices, or"),
    ({"a.b": {"lo": 1, "high": 2}}, "unknown key of tune: a.b: 'lo'; did you mean 'low'?"),
    ({"a.b": {"low": 1}}, "tune: a.b needs numbers for low and high"),
    ({"a.b": {"low": 1, "high": "x"}}, "tune: a.b needs numbers for low and high"),
    ({"a.b": {"low": 2, "high": 1}}, "tune: a.b: "),
    ({"a.b": {"low": 0.0, "high": 1, "log": True}}, "tune: a.b: "),
    ({"a.b": {"low": 1, "high": 2, "log": 3}}, "tune: a.b: log must be true or false, got 3"),
]


@pytest.mark.parametrize(("section", "message"), ERRORS, ids=[str(section) for section, _ in ERRORS])
def test_a_range_that_is_none_is_named(section, message):
    with pytest.raises(UserError) as error:
        space.parse(section, "x.yaml")
    assert str(error.value).startswith(message)


def suggestions(seed: int, stop_at: int | None) -> list[dict]:
    """14 settings; with ``stop_at`` the study is left there and gone on with by a new sampler."""
    ranges = {"x": FloatDistribution(-1, 1), "y": CategoricalDistribution(["a", "b", "c"])}
    storage = optuna.storages.InMemoryStorage()
    for until in [14] if stop_at is None else [stop_at, 14]:
        study = optuna.create_study(
            storage=storage, study_name="s", sampler=SeededTPE(seed), load_if_exists=True, direction="minimize"
        )
        while len(study.trials) < until:
            trial = study.ask(ranges)
            study.tell(trial, trial.params["x"] ** 2)
    return [trial.params for trial in study.trials]


def test_suggestions_are_the_same_when_a_study_is_interrupted():
    whole = suggestions(seed=3, stop_at=None)
    assert len({params["x"] for params in whole}) == 14
    assert suggestions(seed=3, stop_at=5) == suggestions(seed=3, stop_at=12) == whole
    assert suggestions(seed=4, stop_at=None) != whole


def test_the_interval_is_the_one_that_a_t_test_does_not_reject():
    values = [0.97, 0.98, 0.99, 0.985]
    mean, half = retraining.interval(values)
    assert ttest_1samp(values, mean - half).pvalue == pytest.approx(0.05)
    assert ttest_1samp(values, mean + half).pvalue == pytest.approx(0.05)
    assert math.isnan(retraining.interval([0.5])[1])


def test_the_summary_shows_the_test_and_the_deciding_metric():
    metrics = [{"test/accuracy": 0.9, "test/accuracy_low": 0.8, "val/loss": 0.2, "train/loss": 1.0}]
    metrics.append({**metrics[0], "test/accuracy": 0.7})
    lines = retraining.summary([{"metrics": m} for m in metrics], "val/loss")
    assert [line.split() for line in lines] == [
        ["test/accuracy", "0.8000", "±", "1.2706"],  # 12.706 · 0.1414 / √2
        ["val/loss", "0.2000", "±", "0.0000"],
    ]
