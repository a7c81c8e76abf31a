"""The explorer's networks against one that is trained alone with torch's own optimiser, and its page in a browser."""

import base64
import json
import math
import random
import re

import numpy as np
import pytest
import torch

from browser import browsing, chromedriver
from conftest import missing
from lit_models.batched import make_networks
from regressing import experiment, explorer, report, selection
from regressing.experiment import Experiment, T, X

PLAN = Experiment(weight_decays=(0.0, 0.003, 0.03), dropouts=(0.0, 0.05, 0.2), updates=200, seeds=3, seed=4)


@pytest.fixture(scope="module")
def outcomes():
    scores = experiment.score_all(PLAN)
    return [selection.judge(PLAN, scores, variant) for variant in selection.variants(PLAN)]


@pytest.fixture(scope="module")
def page(outcomes, tmp_path_factory):
    """The written page; its table has the columns that it shows."""
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    names = ("variant", "weight_decay", "dropout", "updates", "loo_mse", "loo_low", "loo_high")
    rows = [dict.fromkeys(names, "0.5") | {"updates": outcome.updates} for outcome in outcomes]
    assert set(names) <= set(report.COLUMNS)
    done = []
    explorer.write(path, PLAN, outcomes, rows, done.append)
    assert sum(done) == explorer.total_progress(PLAN, outcomes)
    return path


@pytest.fixture(scope="module")
def data(page):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    return json.loads(found)


def floats(packed):
    return np.frombuffer(base64.b64decode(packed["data"]), "<f4").reshape(packed["shape"])


def alone(activation, hidden, decay, p, fold, updates):
    """One network: autograd, `torch.optim.Adam`, and a mask for each update from the seed's stream."""
    start = make_networks((1, hidden, 1), PLAN.seeds, torch.Generator().manual_seed(PLAN.seed))
    (w1, b1), (w2, b2) = [(w[0].clone().requires_grad_(), b[0].clone().requires_grad_()) for w, b in start]
    optimizer = torch.optim.Adam([w1, b1, w2, b2], lr=PLAN.learning_rate)
    noise = torch.Generator().manual_seed(PLAN.seed)
    seen = [n for n in range(len(X)) if n != fold]
    for _ in range(updates):
        z = X @ w1.T + b1
        a = torch.tanh(z) if activation == "tanh" else z.relu()
        if p:
            a = a * (torch.rand(len(X), hidden, generator=noise) >= p) / (1 - p)
        error = (a @ w2.T + b2 - T)[seen]
        optimizer.zero_grad()
        (error.square().mean() + decay / 2 * (w1.square().sum() + w2.square().sum())).backward()
        optimizer.step()
    return torch.cat([w1.flatten(), b1, w2.flatten(), b2]).detach().numpy()


@pytest.mark.parametrize("draw", range(6))
def test_a_place_of_the_sliders_is_a_network_trained_alone(data, draw):
    choose = random.Random(draw)
    a, h, p, decay, frame = (
        choose.randrange(len(data[name])) for name in ("activations", "hidden", "dropouts", "decays", "updates")
    )
    frame, fold = max(frame, 1), choose.randrange(12)
    cell = data["cells"][(a * len(data["hidden"]) + h) * len(data["dropouts"]) + p]
    found = floats(cell["weights"])[frame, fold, decay]
    setting = (data["activations"][a], data["hidden"][h], data["decays"][decay], data["dropouts"][p])
    expected = alone(*setting, fold - 1, data["updates"][frame])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert not np.allclose(found, floats(cell["weights"])[0, fold, decay], atol=1e-2)


def test_errors_are_those_that_early_stopping_was_chosen_by(data, outcomes):
    (stopped,) = (one for one in outcomes if one.variant.name == "early stopping")
    (preset,) = (one for one in data["presets"] if one["name"] == "early stopping")
    cell = data["cells"][data["hidden"].index(10) * len(data["dropouts"]) + preset["dropout"]]
    held_out = floats(cell["errors"])[:, 1, 0, preset["decay"]]
    np.testing.assert_allclose(held_out, stopped.validation, rtol=1e-3)
    assert data["records"][int(held_out.argmin())] == data["updates"][preset["frame"]] == stopped.updates
    assert held_out.min() == pytest.approx(stopped.selected_mse, rel=1e-3)


def test_all_that_was_chosen_is_on_the_grid():
    values = explorer.some(tuple(range(20)), (7, 3, 7), 5)
    assert len(values) == 5 and {3, 7, 0, 19} <= set(values)
    assert explorer.some((1.0, 2.0), (1.0, 2.0), 5) == (1.0, 2.0)


@pytest.fixture(scope="module")
def browser(chromium, tmp_path_factory):
    if chromedriver() is None:
        missing("browser", "no chromedriver on this machine")
    with browsing(chromium, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def state(browser):
    return json.loads(browser.evaluate("document.documentElement.dataset.state"))


@pytest.mark.browser
def test_sliders_show_the_stored_network(browser, page, data):
    browser.open(page)
    browser.evaluate("document.querySelector('#decay').focus()")
    browser.press("ArrowRight")
    browser.evaluate("document.querySelector('#fold').focus()")
    browser.press("ArrowRight", "ArrowRight", "ArrowRight")
    browser.evaluate("document.querySelector('#frame').focus()")
    browser.press("ArrowLeft")
    now = state(browser)
    assert (now["decay"], now["fold"]) == (1 + data["presets"][0]["decay"], 3)
    place = floats(data["cells"][data["hidden"].index(10) * len(data["dropouts"])]["weights"])
    w1, b1, w2, b2 = np.split(place[now["frame"], 3, now["decay"]].astype(float), [10, 20, 30])
    curve = [float(np.tanh(w1 * x + b1) @ w2 + b2[0]) for x in data["x"]]
    assert now["curve"] == pytest.approx(curve, abs=1e-6)
    assert f"x = {data['x'][2]}" in browser.text("#fold-value")
    assert browser.complaints() == []


@pytest.mark.browser
def test_presets_stand_where_the_table_says(browser, page, data, outcomes):
    browser.open(page)
    for index, outcome in enumerate(outcomes):
        browser.evaluate(f"document.querySelectorAll('#presets input')[{index}].click()")
        now = state(browser)
        assert (data["decays"][now["decay"]], data["dropouts"][now["dropout"]]) == outcome.setting
        assert now["update"] == outcome.updates and str(outcome.updates) in browser.text("#table-row")
        assert math.isfinite(now["held"]) and len(browser.text("#says")) > 80


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_a_phone(browser, page, theme):
    browser.theme(theme)
    browser.size(390, 844, mobile=True)
    browser.open(page)
    assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert browser.complaints() == []
