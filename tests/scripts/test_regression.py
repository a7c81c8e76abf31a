"""The regression experiment: honest choices, files, and what the command line refuses."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import console
import regression
from lit_models.functional import ACTIVATIONS
from regressing import experiment, selection
from regressing.experiment import PAIRS, SINGLES, Experiment, Scores

ROOT = Path(__file__).resolve().parents[2]
N = 11
SMALL = Experiment(weight_decays=(0.0, 0.01), dropouts=(0.0, 0.1), updates=40, seeds=2)


def command(monkeypatch, *arguments):
    """Run the script's main in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["regression.py", *arguments])
    with pytest.raises(SystemExit) as left:
        console.run(regression.main)
    return left.value.code


def random_scores(plan=SMALL, seed=0):
    generator = torch.Generator().manual_seed(seed)
    e, c, r = len(plan.records), len(plan.settings), plan.seeds
    held_out = torch.randn(e, c, r, N, generator=generator)
    inner = torch.rand(e, c, N, N, generator=generator)
    inner[:, :, range(N), range(N)] = torch.nan
    return Scores(held_out, inner, torch.rand(e, c, generator=generator), torch.ones(c))


def test_shares_hold_points_out():
    share = experiment.shares([(), (3,), (0, 10)])[:, 0, :, 0]
    torch.testing.assert_close(share.sum(1), torch.ones(3))
    assert share[1, 3] == share[2, 0] == share[2, 10] == 0
    assert share[0, 0] == pytest.approx(1 / 11) and share[2, 5] == pytest.approx(1 / 9)


def test_scores_are_of_points_that_were_held_out():
    """Against networks trained one fold at a time."""
    settings = SMALL.settings[:1]
    scores = experiment.score_block(SMALL, settings)
    for i in (0, 7):
        alone = experiment.train(SMALL, settings, [(i,)], SMALL.seeds)
        torch.testing.assert_close(scores.held_out[:, 0, :, i], alone.errors[:, 0, :, i, 0], rtol=1e-4, atol=1e-5)
        seen = [n for n in range(N) if n != i]
        assert alone.errors[-1, 0][:, seen].square().mean() < alone.errors[0, 0][:, seen].square().mean()
    pair = experiment.train(SMALL, settings, [(2, 5)], SMALL.seeds).errors[:, 0, ..., 0].square().mean(1)  # (E, N)
    torch.testing.assert_close(scores.inner[:, 0, 2, 5], pair[:, 5], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.inner[:, 0, 5, 2], pair[:, 2], rtol=1e-4, atol=1e-5)
    assert scores.inner[:, 0, 4, 4].isnan().all() and len(SINGLES) + len(PAIRS) == 66


def test_blocks_change_nothing_but_the_masks(monkeypatch):
    plan = Experiment(weight_decays=(0.0, 0.01), dropouts=(0.0, 0.2), updates=20, seeds=1)
    calls = []
    whole = experiment.score_all(plan, calls.append)
    assert sum(calls) == experiment.total_progress(plan)
    monkeypatch.setattr(experiment, "SHARED_BLOCK", 1)
    parts = experiment.score_all(plan)
    plain = [i for i, (_, p) in enumerate(plan.settings) if p == 0]
    for field in ("held_out", "inner", "training"):
        a, b = getattr(whole, field)[:, plain], getattr(parts, field)[:, plain]
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert not torch.equal(whole.held_out[-1, 0], whole.held_out[-1, 3])


def test_what_a_variant_may_choose():
    none, stopping, decay, dropout, best = selection.variants(SMALL)
    assert (none.settings, decay.settings, dropout.settings, best.settings) == ((0,), (2,), (1,), (0, 1, 2, 3))
    curves = np.ones((3, 4))
    curves[1, 0], curves[0, 3], curves[2, 2] = 0.5, 0.2, 0.4
    assert selection.choose(curves, none) == (0, 2)
    assert selection.choose(curves, stopping) == (0, 1)
    assert selection.choose(curves, decay) == (2, 2)
    assert selection.choose(curves, best) == (3, 0)


def test_a_choice_never_sees_the_point_it_is_scored_on():
    """Changing every error at point i leaves the choice for i as it was; the other points' choices may move."""
    best = selection.variants(SMALL)[-1]
    scores, i = random_scores(), 4
    before = selection.judge(SMALL, scores, best)
    scores.held_out[..., i] *= torch.rand(scores.held_out.shape[:2])[..., None] * 10
    scores.inner[:, :, :, i] = torch.rand(scores.inner.shape[:3])
    scores.inner[:, :, i, i] = torch.nan
    after = selection.judge(SMALL, scores, best)
    inner = np.nanmean(scores.inner.numpy(), axis=3)[:, :, i]
    record, setting = np.unravel_index(np.argmin(inner), inner.shape)
    assert after.squared[i] == pytest.approx(float(scores.held_out[record, setting, :, i].square().mean()))
    assert not np.allclose(np.delete(before.squared, i), np.delete(after.squared, i))


def test_the_selected_score_is_hopeful_on_pure_noise():
    """With nothing to learn, the score selected on looks better than the honest one, on average."""
    best = selection.variants(SMALL)[-1]
    outcomes = [selection.judge(SMALL, random_scores(seed=seed), best) for seed in range(20)]
    assert np.mean([outcome.selected_mse for outcome in outcomes]) < 0.8
    assert np.mean([outcome.loo_mse for outcome in outcomes]) == pytest.approx(1.0, abs=0.15)


def test_bootstrap_interval_covers_a_known_mean():
    rng = np.random.default_rng(0)
    samples = rng.normal(3.0, 1.0, (200, 40))
    inside = [low < 3.0 < high for low, high in (selection.bootstrap_interval(s, 0, 1000) for s in samples)]
    assert 0.88 < np.mean(inside) < 0.99
    assert selection.bootstrap_interval(np.full(5, 2.0), 0) == (2.0, 2.0)


def test_command_writes_everything_and_repeats_itself(tmp_path, monkeypatch, capsys):
    options = ["--updates", "40", "--seeds", "1", "--final-seeds", "2", "--weight-decays", "0", "0.01"]
    options += ["--dropouts", "0", "0.1", "--activation", "silu"]
    tables = []
    for name in ("a", "b"):
        assert command(monkeypatch, *options, "--output", str(tmp_path / name)) == 0
        with (tmp_path / name / "regression.csv").open() as file:
            tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    assert tables[0] == tables[1]
    printed = capsys.readouterr().out
    names = [row["variant"] for row in tables[0]]
    assert names == ["none", "early stopping", "weight decay", "dropout", "best combination"]
    for row in tables[0]:
        assert float(row["loo_low"]) <= float(row["loo_mse"]) <= float(row["loo_high"])
        assert row["variant"] in printed
    assert tables[0][0]["selected_loo_mse"] == "" and float(tables[0][1]["selected_loo_mse"]) > 0
    for picture in ("regression", "learning_curves", "selection"):
        with Image.open(tmp_path / "a" / f"{picture}.png") as image:
            assert min(image.size) > 800
    assert len(list((tmp_path / "a").glob("events.out.tfevents.*"))) == 1
    assert not list((tmp_path / "a").glob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--activation", "tahn"], "unknown activation 'tahn'; did you mean 'tanh'?"),
        (["--dropouts", "0", "1"], "--dropouts must be in [0, 1) each, not [0.0, 1.0]"),
        (["--weight-decays", "0", "-1"], "--weight-decays must be at least 0 each"),
        (["--updates", "30"], "--updates must be a positive multiple of 20, not 30"),
        (["--learning-rate", "nan"], "--learning-rate must be positive"),
        (["--seed", "x"], "--seed"),
    ],
)
def test_command_refuses(arguments, message, monkeypatch, capsys):
    assert command(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and len(error.splitlines()) <= 5


def test_help_needs_no_torch():
    code = """
import runpy, sys
sys.path.insert(0, "scripts")
sys.argv = ["regression.py", "--help"]
try:
    runpy.run_path("scripts/regression.py", run_name="__main__")
except SystemExit:
    assert not {"torch", "numpy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--weight-decays" in done.stdout


def test_activations_offered_are_those_there_are():
    import regression

    assert set(regression.ACTIVATIONS) == set(ACTIVATIONS)
