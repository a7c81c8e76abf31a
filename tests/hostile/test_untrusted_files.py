"""Checkpoints and weights from anyone: nothing in them runs, and each is refused in a line, wherever it is loaded."""

import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hostile.parse_only import EXPLANATIONS, run
from interpretability.plain_files import load_plain
from lit_models import LitCNN

SETTINGS = """
seed_everything: 0
model: {class_path: lit_models.LitCNN, init_args: {channels: [2, 2], kernel_size: 3, hidden: 4}}
data: {class_path: datamodules.DigitsDataModule}
trainer: {max_epochs: 1, limit_train_batches: 1, limit_val_batches: 1, limit_test_batches: 1, accelerator: cpu,
          enable_progress_bar: false, enable_model_summary: false}
"""


class Payload:
    """Writes the file ``ran`` when it is unpickled by anything that runs what a pickle asks for."""

    def __reduce__(self):
        return (Path("ran").write_text, ("x",))


def whole():
    model = LitCNN(channels=(2, 2), kernel_size=3, hidden=4)
    versions = {"epoch": 0, "global_step": 1, "pytorch-lightning_version": "2.6.0"}
    return {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), **versions}


def saved(path, content, **options):
    torch.save(content, path, **options)


def rewritten(path, edit, compression=zipfile.ZIP_STORED):
    """``whole()`` with each entry of its archive replaced by ``edit(name, content)``."""
    saved(path, whole())
    with zipfile.ZipFile(path) as source:
        entries = {entry.filename: source.read(entry) for entry in source.infolist()}
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, content in entries.items():
            target.writestr(name, edit(name, content))


def changed(content, place, value):
    return content[:place] + value + content[place + len(value) :]


def larger_header(path):
    """The first weight says that it has a million elements; its record holds a few."""
    elements = whole()["state_dict"]["stages.0.0.weight"].numel()
    short, long = b"K" + bytes([elements]) + b"t", b"J" + struct.pack("<i", 10**6) + b"t"

    def edit(name, content):
        return content.replace(short, long, 1) if name.endswith("data.pkl") else content

    rewritten(path, edit)
    assert zipfile.ZipFile(path).read(zipfile.ZipFile(path).namelist()[0]).count(long) == 1


def other_bytes(path):
    saved(path, whole())
    with zipfile.ZipFile(path) as archive:
        weights = next(entry for entry in archive.infolist() if entry.filename.endswith("data/0"))
        content = archive.read(weights)
    raw = path.read_bytes()
    place = raw.index(content)
    path.write_bytes(changed(raw, place, bytes([raw[place] ^ 1])))


def cut(path, kept):
    saved(path, whole())
    path.write_bytes(path.read_bytes()[:kept])


def settings(path, **given):
    content = whole()
    saved(path, content | {"hyper_parameters": content["hyper_parameters"] | given})


REFUSED = {
    "payload": lambda path: saved(path, whole() | {"loops": Payload()}),
    "payload as weights": lambda path: saved(path, whole() | {"state_dict": Payload()}),
    "payload as settings": lambda path: settings(path, hidden=Payload()),
    "payload, old format": lambda path: saved(path, whole() | {"a": Payload()}, _use_new_zipfile_serialization=False),
    "bare pickle": lambda path: path.write_bytes(pickle.dumps(Payload())),
    "whole model": lambda path: saved(path, torch.nn.Linear(2, 2)),
    "larger header": larger_header,
    "compressed": lambda path: rewritten(path, lambda name, content: content, zipfile.ZIP_DEFLATED),
    "bytes changed": other_bytes,
    "cut at 0": lambda path: cut(path, 0),
    "cut at 300": lambda path: cut(path, 300),
    "cut at 3000": lambda path: cut(path, 3000),
    "not a pickle": lambda path: path.write_bytes(b"<html>404</html>"),
    "safetensors header of an exabyte": lambda path: path.write_bytes(struct.pack("<Q", 2**60) + b'{"a":{}}'),
    "folder": lambda path: path.mkdir(),
    "a list": lambda path: saved(path, [1, 2]),
    "weights are a number": lambda path: saved(path, whole() | {"state_dict": 3}),
    "another network's weights": lambda path: saved(path, whole() | {"state_dict": {"head.weight": torch.ones(2)}}),
    "foreign instantiator": lambda path: settings(path, _instantiator="os.system"),
}
# what goes on with the run's own config.yaml, and never looks at the checkpoint's settings
ONLY_SETTINGS = {
    "foreign class": lambda path: settings(
        path, _instantiator="lightning.pytorch.cli.instantiate_module", _class_path="subprocess.Popen"
    ),
    "terabytes by its settings": lambda path: settings(path, hidden=10**12),
    "settings of other kinds": lambda path: settings(path, channels="abc", hidden=None),
}

PROMISE = "Files from elsewhere run nothing and are refused in one line"
# read, unpacked or built by it; not every torch compares a storage with its record
UNSEEN_BY_LIGHTNING = ("compressed", "bytes changed", "terabytes by its settings", "larger header")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty run, and a place for what the command lines write; the payload was never run."""
    run_folder = tmp_path / "runs" / "digits" / "one"
    (run_folder / "checkpoints").mkdir(parents=True)
    (run_folder / "config.yaml").write_text(SETTINGS)
    pixels = np.zeros((28, 28), np.uint8)
    pixels[8:20, 12:16] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not Path("ran").exists()
    os.environ.pop("BACKLIT_RUN_DIRECTORY", None)


def refuses(path, command, *words):
    outcome = run(command, [str(word) for word in words])
    told = outcome.error[outcome.error.index("error: ") :]
    assert outcome.code == 2 and told.count("\n") == 1, (command, outcome)
    assert path.name in told or path.parent.name in told, told
    assert "weights_only" not in told and "you trust" not in told, told  # no advice to load it all the same


@pytest.mark.parametrize("damage", REFUSED)
def test_refused_by_every_explanation(folder, damage, record_promise):
    record_promise(PROMISE, damage, 7, group="Hostile input")
    path = folder / "runs/digits/one/checkpoints/last.ckpt"
    REFUSED[damage](path)
    for name in EXPLANATIONS:
        refuses(path, f"explain {name}", "--model", path)
    path.rename("weights.pth")
    for words in (["explain saliency", "image.png"], ["explain features"]):  # the two places that read weights
        refuses(Path("weights.pth"), *words, "--model=squeezenet1_0", "--weights=weights.pth")
    assert not list(folder.rglob("*.html"))


@pytest.mark.slow
@pytest.mark.parametrize("damage", REFUSED)
def test_no_run_goes_on_from_it(folder, damage, record_promise):
    record_promise(PROMISE, damage, 2, group="Hostile input")
    path = folder / "runs/digits/one/checkpoints/last.ckpt"
    REFUSED[damage](path)
    refuses(path, "train", "--resume", path)
    refuses(path, "evaluate", path)
    assert not list(folder.glob("runs/*/*/metrics.csv"))


@pytest.mark.parametrize("damage", ONLY_SETTINGS)
def test_refused_by_what_builds_the_model_from_it(folder, damage):
    path = folder / "runs/digits/one/checkpoints/last.ckpt"
    ONLY_SETTINGS[damage](path)
    for name in EXPLANATIONS:
        refuses(path, f"explain {name}", "--model", path)
    assert run("evaluate", [str(path)]).code == 0


@pytest.mark.parametrize("damage", [name for name in (*REFUSED, *ONLY_SETTINGS) if name not in UNSEEN_BY_LIGHTNING])
def test_refused_by_lightnings_own_loading(folder, damage):
    path = folder / "model.ckpt"
    {**REFUSED, **ONLY_SETTINGS}[damage](path)
    with pytest.raises(Exception):  # noqa: B017  whichever: Lightning's, torch's or Python's
        LitCNN.load_from_checkpoint(path, map_location="cpu", weights_only=True)


def test_a_whole_one_is_taken_everywhere(folder):
    path = folder / "runs/digits/one/checkpoints/last.ckpt"
    saved(path, whole())
    assert run("evaluate", [str(path)]).code == 0
    assert run("explain saliency", ["--model", str(path), "--samples", "1", "--method", "Saliency"]).code == 0
    assert LitCNN.load_from_checkpoint(path, weights_only=True).hparams["hidden"] == 4
    saved(path, whole(), _use_new_zipfile_serialization=False)
    assert run("evaluate", [str(path)]).code == 0


def test_the_payload_would_run_where_pickles_may(folder):
    path = folder / "model.ckpt"
    REFUSED["payload"](path)
    torch.load(path, weights_only=False)
    assert Path("ran").exists()
    Path("ran").unlink()


def test_a_checkpoint_is_no_option_of_its_own(folder):
    path = folder / "model.ckpt"
    REFUSED["payload"](path)
    outcome = run("train", ["digits", f"--ckpt_path={path}"])
    assert outcome.code == 2 and "unknown option '--ckpt_path'" in outcome.error


def test_small_files_do_not_become_large(tmp_path):
    path = tmp_path / "bomb.pth"
    rewritten(path, lambda name, content: bytes(10**8) if name.endswith("data/0") else content, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match="it is compressed"):
        load_plain(path)
    with zipfile.ZipFile(path, "w") as archive:  # one record, listed a thousand times
        archive.writestr("data.pkl", bytes(1000))
        archive.filelist += archive.filelist * 1000
    with pytest.raises(ValueError, match="holds more bytes than it has"):
        load_plain(path)


@pytest.mark.faults
def test_any_byte_changed_or_any_end_cut_is_noticed(tmp_path, record_promise):
    row = record_promise(
        "A damaged checkpoint is named, not half read", "random bytes changed, ends cut", group="Hostile input"
    )
    path = tmp_path / "model.ckpt"
    saved(path, whole())
    good, expected = path.read_bytes(), load_plain(path)
    generator = np.random.default_rng(0)
    refused = same = 0
    for _ in range(2000):
        place = int(generator.integers(len(good)))
        flip = bytes([good[place] ^ int(generator.integers(1, 256))])
        path.write_bytes(good[:place] if generator.random() < 0.3 else changed(good, place, flip))
        try:
            found = load_plain(path)
        except ValueError:
            refused += 1
        else:  # the byte was padding, or of the archive's own names and dates
            same += 1
            assert all(torch.equal(value, expected["state_dict"][name]) for name, value in found["state_dict"].items())
            assert found["hyper_parameters"] == expected["hyper_parameters"]
    assert refused > same > 0
    row |= {"tries": 2000, "figure": f"{refused} refused, {same} read unharmed"}


@pytest.mark.faults
def test_a_checkpoint_with_any_part_replaced_is_named_or_resumed(folder, record_promise):
    row = record_promise(
        "A run resumed from a damaged state says so", "a part replaced by another value", group="Hostile input"
    )
    path = folder / "runs/digits/one/checkpoints/last.ckpt"
    assert run("train", ["--config", "runs/digits/one/config.yaml", "--trainer.max_epochs=2"]).code == 0
    (trained,) = (folder / "runs").glob("config/*/checkpoints/last.ckpt")
    content = torch.load(trained, weights_only=True)
    tries = 0
    for key in content:
        for value in (None, {}, "x", 10**30, torch.ones(3), [{}]):
            saved(path, content | {key: value})
            outcome = run("train", ["--resume", str(path), "--trainer.max_epochs=3"])
            assert outcome.code in (0, 2), (key, value, outcome)
            tries += 1
    row |= {"tries": tries}
