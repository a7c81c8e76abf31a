"""``report.html``: its numbers against scikit-learn, its files, what is left out, and its page in a browser."""

import html
import json
import re

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, seed_everything
from lightning.pytorch.loggers import CSVLogger
from sklearn.metrics import confusion_matrix
from torch.utils.data import DataLoader

from browser import browsing, chromedriver
from callback_stand_ins import Classifier, Scripted, blobs, quiet_trainer
from callbacks import RunReport, SaliencySnapshots, TSNELogger
from callbacks.report.history import MOST_POINTS, History, StepLosses, quantity_of
from callbacks.report.run_report import MOST_BYTES
from callbacks.report.tested import Tested as Seen
from conftest import missing

HOSTILE = ["</script><script>window.hacked=1</script>", '<img src=x onerror="window.hacked=1">', "{{ 7*7 }}", "${1}"]


class Logging(Classifier):
    """Logs as people do: with slashes, with underscores, and what is not a number."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self._loss(batch))
        self.log("val/odd", float("nan"))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self._loss(batch))


class Data(LightningDataModule):
    """Blobs for training, validation and test, with names of their classes."""

    def __init__(self, n_classes=4, size=(1, 9, 12), names=None, times=1):
        super().__init__()
        self.class_names = names
        self.parts = [blobs(n * times, n_classes, size, seed) for seed, n in enumerate((90, 60, 80))]

    def train_dataloader(self):
        return DataLoader(self.parts[0], batch_size=30)

    def val_dataloader(self):
        return DataLoader(self.parts[1], batch_size=30)

    def test_dataloader(self):
        return DataLoader(self.parts[2], batch_size=30)


def data_of(path):
    """What the page knows, read from the file as a browser would."""
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(html.unescape(found))


def run(root, *callbacks, size=(1, 9, 12), n_classes=4, epochs=2, title=None, names=None, times=1):
    """A run of somebody's classifier, trained and tested; the report's callback, the test data and the module."""
    seed_everything(0)
    report = RunReport(title=title, command="train --config x.yaml")
    trainer = quiet_trainer(root, *callbacks, report, logger=CSVLogger(root, name="own"), max_epochs=epochs)
    data, module = Data(n_classes, size, names, times), Logging(n_classes, size[0])
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    return report, data.parts[2], module


def test_numbers_of_the_test_are_scikit_learns(tmp_path):
    report, data, module = run(tmp_path)
    page = data_of(report.path)
    x, labels = data.tensors
    with torch.no_grad():
        probabilities = module.eval()(x).softmax(1)
    matrix = np.zeros((4, 4), int)
    for label, predicted, count in page["test"]["cells"]:
        matrix[label, predicted] = count
    assert 0 < page["test"]["accuracy"] < 1
    assert (matrix == confusion_matrix(labels, probabilities.argmax(1), labels=range(4))).all()
    rows = page["test"]["calibration"]
    assert sum(row["count"] for row in rows) == len(labels)
    mean = sum(row["count"] * row["confidence"] for row in rows) / len(labels)
    assert mean == pytest.approx(float(probabilities.max(1).values.mean()), abs=1e-5)
    true = probabilities.gather(1, labels[:, None])[:, 0][probabilities.argmax(1) != labels]
    assert [one["p_true"] for one in page["mistakes"]] == pytest.approx(true.sort().values[:12].tolist(), abs=1e-5)


def test_curves_hold_what_was_logged_by_quantity(tmp_path):
    report, *_ = run(tmp_path, epochs=9)
    page = data_of(report.path)
    (loss,) = page["curves"]  # one card for training, validation and test; nothing of what is not a number
    assert [(series["stage"], len(series["points"])) for series in loss["series"]] == [("train", 9), ("val", 9)]
    assert loss["name"] == "loss" and loss["tested"] == pytest.approx(report.history.tested["test_loss"])
    values = [value for _, value in loss["series"][1]["points"]]
    assert page["best"]["epoch"] == 1 + int(np.argmin(values)) and page["best"]["monitor"] == "val/loss"
    assert page["state"] == "trained" and "Python" in page["versions"]


def test_a_checkpoint_that_is_tested_does_not_take_back_the_curves(tmp_path):
    report = RunReport()
    trainer = quiet_trainer(tmp_path, report, logger=CSVLogger(tmp_path), max_epochs=3)
    loader = DataLoader(blobs(60), batch_size=30)
    module = Logging()
    trainer.fit(module, loader, loader)
    early = report.state_dict()
    early["history"]["metrics"] = {"val/loss": [[1, 9.0]]}
    trainer.save_checkpoint(path := tmp_path / "early.ckpt")
    content = torch.load(path, weights_only=False)
    (key,) = (name for name in content["callbacks"] if "RunReport" in name)
    content["callbacks"][key] = early
    torch.save(content, path)
    trainer.test(module, loader, ckpt_path=path, weights_only=False, verbose=False)
    assert len(report.history.metrics["val/loss"]) == 3
    again = quiet_trainer(tmp_path, resumed := RunReport(), logger=CSVLogger(tmp_path), max_epochs=4)
    again.fit(Logging(), loader, loader, ckpt_path=path, weights_only=False)
    assert [point[0] for point in resumed.history.metrics["val/loss"]] == [1, 4]


class Stop(Callback):
    """Ctrl-C in the second epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def test_an_interrupted_run_has_its_report(tmp_path):
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path, Stop())
    (path,) = tmp_path.rglob("report.html")
    page = data_of(path)
    assert page["state"] == "interrupted" and page["test"] is None
    assert len(page["curves"][0]["series"][1]["points"]) == 1


def test_a_run_without_validation_test_or_classes_shows_what_there_is(tmp_path):
    report = RunReport()
    module = Scripted([0.4, 0.3, 0.2], monitor="train/loss")
    trainer = quiet_trainer(tmp_path, report, logger=CSVLogger(tmp_path), max_epochs=3)
    loader = DataLoader([(torch.zeros(2), torch.zeros(2))], batch_size=1)
    trainer.fit(module, loader)
    page = data_of(report.path)
    assert page["test"] is None and page["mistakes"] == page["layouts"]["maps"] == page["saliency"] == []
    series = {one["stage"]: one["points"] for one in page["curves"][0]["series"]}
    assert [value for _, value in series["train"]] == pytest.approx([0.4, 0.3, 0.2])


@pytest.mark.parametrize(("n_classes", "size"), [(1, (1, 8, 8)), (1000, (3, 20, 16))])
def test_one_score_and_a_thousand_classes(tmp_path, n_classes, size):
    report, *_ = run(tmp_path, n_classes=n_classes, size=size)
    assert not report._warned
    page = data_of(report.path)
    assert len(page["test"]["classes"]) == max(n_classes, 2) and report.path.stat().st_size < MOST_BYTES


def test_a_report_too_large_is_made_smaller(tmp_path, monkeypatch):
    report, *_ = run(tmp_path, n_classes=60, size=(3, 48, 48))
    whole = report.path.stat().st_size
    pictures = sum(cell[3] for cell in data_of(report.path)["test"]["where"])
    monkeypatch.setattr("callbacks.report.run_report.MOST_BYTES", 1)
    smaller, *_ = run(tmp_path / "again", n_classes=60, size=(3, 48, 48))
    assert smaller.path.stat().st_size < whole
    assert sum(cell[3] for cell in data_of(smaller.path)["test"]["where"]) < pictures


def test_keys_name_their_stage():
    assert quantity_of("val/loss") == quantity_of("val_loss") == quantity_of("loss_val") == ("loss", "val")
    assert quantity_of("validation-top1") == ("top1", "val") and quantity_of("train.acc") == ("acc", "train")
    assert quantity_of("value") == ("value", "train") and quantity_of("latest_lr") == ("latest_lr", "train")


def test_losses_of_many_steps_are_averaged():
    losses = StepLosses()
    values = torch.rand(50_000, generator=torch.Generator().manual_seed(0))
    for n, value in enumerate(values):
        losses.add(n / 1000, value)
    losses.flush()
    assert 100 < len(losses.points) <= MOST_POINTS and losses.points[-1][0] > 49
    mean = sum(value for _, value in losses.points) / len(losses.points)
    assert mean == pytest.approx(float(values.mean()), abs=2e-3)


def test_an_epoch_done_anew_replaces_what_it_was():
    history = History()
    for epoch, value in enumerate([3.0, 2.0, 1.0]):
        history.record(epoch, {"val/loss": value})
    history.record(1, {"val/loss": 5.0})
    assert history.metrics["val/loss"] == [[1, 3.0], [2, 5.0]]


def test_ranks_join_to_what_one_has_seen():
    x, labels = blobs(80, seed=2).tensors
    probabilities = torch.rand(80, 4, generator=torch.Generator().manual_seed(1)).softmax(1)
    whole, parts = Seen(), (Seen(), Seen())
    whole.add(x, probabilities, labels)
    for n, part in enumerate(parts):
        part.add(x[n::2], probabilities[n::2], labels[n::2])
    parts[0].join(parts[1])
    assert parts[0].cell_counts() == whole.cell_counts() and parts[0].calibration() == whole.calibration()
    assert [one[0] for one in parts[0].worst] == [one[0] for one in whole.worst]


@pytest.fixture(scope="module")
def browser(chromium, tmp_path_factory):
    """One browser for all tests of the report."""
    if chromedriver() is None:
        missing("browser", "no chromedriver on this machine")
    with browsing(chromium, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with all sections, of a run whose names are hostile."""
    drawing = [
        TSNELogger(layer="features", n_samples=40, every_n_epochs=1),
        SaliencySnapshots(["Saliency"], n_images=4, layers=[None]),
    ]
    report, *_ = run(tmp_path_factory.mktemp("run"), *drawing, title=HOSTILE[0], names=HOSTILE)
    assert not report._warned
    return report.path


@pytest.mark.browser
def test_the_page_is_explored(browser, page):
    browser.size(1300, 900)
    browser.open(page)
    assert browser.evaluate("window.hacked") is None
    assert browser.text("h1") == HOSTILE[0]
    assert not browser.evaluate("document.querySelectorAll('section[hidden]:not(#fits-section)').length")
    browser.point("#curves canvas", 0.2, 0.5)
    first = browser.text("#curves .chart > p:last-child")
    assert re.match(r"epoch 0\.\d+: each step \d", first) and "validation" not in first
    browser.press("ArrowRight") if browser.evaluate("document.querySelector('#curves canvas').focus()") else None
    browser.point("#curves canvas", 0.95, 0.5)
    assert browser.text("#curves .chart > p:last-child") != first
    shown = set()
    for across in (0.1, 0.5, 0.9):
        browser.point("#map", across, 0.5)
        shown.add(browser.evaluate("document.querySelector('#map-picture').toDataURL()"))
    assert len(shown) > 1 and re.search("taken for|recognised", browser.text("#map-text"))
    before = browser.evaluate("document.querySelector('#map').toDataURL()")
    slide = "(() => { const s = document.querySelector('%s'); s.value = 0; s.dispatchEvent(new Event('input')); })()"
    browser.evaluate(slide % "#map-slider")
    assert browser.text("#map-epoch") == "epoch 1"
    assert browser.evaluate("document.querySelector('#map').toDataURL()") != before
    maps = browser.evaluate("document.querySelector('.strip').innerHTML")
    browser.evaluate(slide % ".saliency-slider")
    assert browser.evaluate("document.querySelector('.strip').innerHTML") != maps
    assert browser.evaluate("window.hacked") is None and browser.complaints() == []


@pytest.mark.browser
def test_cells_open_their_images_by_mouse_and_keyboard(browser, page):
    browser.open(page)
    test = data_of(page)["test"]
    count = {(label, predicted): n for label, predicted, n in test["cells"]}
    rows = [sum(n for (label, _), n in count.items() if label == row) for row in range(4)]
    browser.point("#matrix", 0.3, 0.3, click=True)
    assert browser.text("#cell-text") == f"{HOSTILE[0]}: {count.get((0, 0), 0)} of {rows[0]} right"
    pictures = "document.querySelectorAll('#cell-pictures canvas').length"
    assert browser.evaluate(pictures) == min(8, count.get((0, 0), 0))
    browser.press("ArrowRight")
    assert browser.text("#cell-text") == f"{HOSTILE[0]}, taken for {HOSTILE[1]}: {count.get((0, 1), 0)} of {rows[0]}"
    assert browser.evaluate(pictures) == min(8, count.get((0, 1), 0))


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_a_phone_in_both_themes(browser, page, theme):
    browser.theme(theme)
    browser.size(390, 844, mobile=True)
    browser.open(page)
    assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(250, 248, 243)", "dark": "rgb(19, 20, 23)"}[theme]
    assert browser.complaints() == []
