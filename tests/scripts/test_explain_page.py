import json
import sys

import pytest
import torch
from torch import nn

import console
import explain as command
from browser import browsing, chromedriver
from conftest import missing
from interpretability.page import PageOptions, PictureCache, build_page, write_page
from lit_models import LitCNN

NAMES = ["one", "<script>window.hacked = 1</script>", "three", "<img src=x onerror='window.hacked = 2'>"]
PHONE = (390, 844)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 12, 5, stride=2, padding=2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(16 * 16 * 16, 4),
    )
    image = torch.rand(3, 8, 8).repeat_interleave(8, 1).repeat_interleave(8, 2)
    options = PageOptions(layers=("0", "1"), classes=(0, 1), n_groups=3, pictured=4, steps=2)
    html = build_page(
        model, image, NAMES, model_name="net", image_name="<b>x</b>", options=options, cache=PictureCache(folder)
    )
    return write_page(html, folder / "page.html")


@pytest.fixture(scope="module")
def window(chromium, tmp_path_factory):
    """One browser for all tests of the page."""
    if chromedriver() is None:
        missing("browser", "no chromedriver on this machine")
    with browsing(chromium, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(window, page):
    window.size(1280, 900)
    window.theme("light")
    window.open(page)
    yield window
    assert window.complaints() == []
    assert window.evaluate("window.hacked ?? null") is None


def place(browser):
    return browser.text("#place-title")


def detectors(browser):
    return browser.text("#detectors")


def ink(browser):
    """A fingerprint of what is drawn over the picture."""
    return browser.evaluate("document.querySelector('#overlay').toDataURL()")


def overflow(browser):
    return browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.browser
def test_pointing_shows_the_detectors_of_a_place(browser):
    browser.point("#stage", 0.1, 0.1)
    first = (place(browser), detectors(browser))
    assert first[0] == "Row 4, column 4 of 32 × 32" and "Detector" in first[1]
    browser.point("#stage", 0.8, 0.55)
    assert place(browser) == "Row 18, column 26 of 32 × 32" and detectors(browser) != first[1]
    browser.point("#stage", 0.8, 0.55, click=True)
    browser.point("#channels-title", 0.5, 0.5)
    assert place(browser) == "Row 18, column 26 of 32 × 32"  # kept by the click


@pytest.mark.browser
def test_layers_classes_and_drawings_are_switched(browser):
    assert browser.text("#channels-first-title") == "For one"
    seen = [ink(browser)]
    browser.click("#layers label:nth-of-type(2)")
    assert "of 16 × 16" in place(browser)
    seen.append(ink(browser))
    for choice in ("#first option:nth-child(3)", "#second option:last-child"):
        browser.click(choice)
        seen.append(ink(browser))
    assert browser.text("#channels-first-title") == "For three"
    assert browser.text("#channels-second-title") == "Against three"
    for mode in (2, 3):
        browser.click(f"#modes label:nth-of-type({mode})")
        seen.append(ink(browser))
    assert len(set(seen)) == len(seen)


@pytest.mark.browser
def test_the_same_class_is_never_set_against_itself(browser):
    for side, other in (("first", "second"), ("second", "first")):
        for option in (1, 2, 3, 4):
            browser.click(f"#{side} option:nth-child({option})")
            assert browser.evaluate("first.value !== second.value"), (side, option, other)


@pytest.mark.browser
def test_everything_answers_to_the_keyboard(browser):
    browser.point("#stage", 0.51, 0.51, click=True)
    assert place(browser) == "Row 17, column 17 of 32 × 32"
    browser.press("ArrowRight", "ArrowRight", "ArrowDown")
    assert place(browser) == "Row 18, column 19 of 32 × 32"
    browser.press("2")
    assert place(browser) == "Row 9, column 10 of 16 × 16"
    browser.press("d")
    assert browser.evaluate("stage.dataset.mode") == "detectors"
    before = browser.text("#channels-first-title")
    browser.press("s")
    assert browser.text("#channels-second-title") == before
    browser.press("t")
    assert browser.text("#predictions-title") == "What it says of the twin"
    browser.evaluate("document.querySelector('#groups .group').focus()")
    browser.press(" ")
    assert browser.text("#stage-caption") == "Where group 1 fires."


@pytest.mark.browser
def test_groups_methods_flow_and_twin_are_there(browser):
    assert browser.evaluate("document.querySelectorAll('#groups .group').length") == 3
    assert browser.evaluate("document.querySelectorAll('#flow path').length") > 6
    assert browser.evaluate("[...document.querySelectorAll('#methods .map')].length") == 8
    assert browser.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    browser.click("#twin button")
    assert browser.text("#predictions-title") == "What it says of the twin"


@pytest.mark.browser
def test_it_fits_a_phone_and_follows_the_theme(browser):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(paper)
    browser.theme("dark")
    dark = browser.evaluate(paper)
    assert light != dark
    browser.click("#theme")
    assert browser.evaluate(paper) == light
    assert overflow(browser) == 0
    browser.size(*PHONE, mobile=True)
    assert overflow(browser) == 0
    assert browser.evaluate("stage.getBoundingClientRect().width") > 330


@pytest.mark.browser
def test_names_are_text(browser):
    assert browser.text(".eyebrow span:last-child") == "<b>x</b>"
    names = browser.evaluate("[...document.querySelectorAll('#first option')].map((option) => option.textContent)")
    assert sorted(names) == sorted(NAMES)


@pytest.fixture
def explain(monkeypatch, capsys, tmp_path):
    """Runs the command line in this process and an empty folder: what it printed, or the error it ended with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKLIT_CACHE", str(tmp_path / "cache"))

    def call(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["explain.py", "page", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            console.run(command.main)
        printed = capsys.readouterr()
        assert stop.value.code == code, printed.err
        return printed.out if code == 0 else printed.err

    return call


@pytest.fixture
def checkpoint(tmp_path):
    model = LitCNN(channels=(4, 6), hidden=8)
    path = tmp_path / "tiny.ckpt"
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save(content | {"pytorch-lightning_version": "2.6.0"}, path)
    return path


def test_command_writes_a_page_of_a_checkpoint(tmp_path, checkpoint, explain):
    printed = explain("--model", checkpoint, "--pictured", 1, "--steps", 1, "--groups", 2, "--target", 3)
    (page,) = (tmp_path / "runs" / "page").glob("*.html")
    assert str(page.relative_to(tmp_path)) in printed
    data = json.loads(page.read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0])
    assert data["model"] == "tiny" and data["classes"][0] == "3"
    assert [layer["name"] for layer in data["layers"]] == ["stages.0.0", "stages.0", "stages.1"]
    assert list((tmp_path / "cache").rglob("*.png"))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--layer", "stages.7"], "error: unknown layer 'stages.7'"),
        (["--layer", "head"], "error: layer 'head' has no places"),
        (["--target", "eleven"], "error: unknown class 'eleven'"),
        (["--pictured", 51], "error: --groups and --steps must be at least 1, --pictured between 0 and 50"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, checkpoint, explain, options, message):
    told = explain("--model", checkpoint, "--steps", 1, *options, code=2)
    assert told.startswith(message) and told.count("\n") == 1
    assert not (tmp_path / "runs").exists()
