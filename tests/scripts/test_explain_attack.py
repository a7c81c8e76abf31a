"""``explain.py attack`` as a person would call it."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import console
from explaining import attack
from lit_models import LitCNN


def call(*words) -> None:
    parser = console.ArgumentParser()
    attack.add_arguments(parser)
    attack.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network trained for a moment, in a checkpoint."""
    import lightning

    from datamodules import DigitsDataModule

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "small.ckpt"
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=3, limit_val_batches=0, enable_model_summary=False, **quiet)
    trainer.fit(LitCNN(channels=(4, 6), hidden=16, learning_rate=0.02), DigitsDataModule())
    trainer.save_checkpoint(path, weights_only=True)
    return path


@pytest.fixture
def photo(tmp_path):
    rows, columns = np.mgrid[0:90, 0:120]
    pixels = np.stack([rows * 2, columns * 2, rows + columns], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("name", attack.ATTACKS)
def test_samples_are_turned_and_what_is_written_agrees(checkpoint, tmp_path, capsys, name):
    epsilon = () if name == "deepfool" else ("--epsilon", "0.3")
    call("--model", checkpoint, "--samples", 2, "--attack", name, *epsilon, "--output", tmp_path)
    printed = capsys.readouterr().out
    turned = re.findall(r"is-(\d): (\d) [\d.]+% -> (\d) [\d.]+% \(before rounding", printed)
    assert len(turned) == 2
    assert any(before != after for _, before, after in turned)
    assert printed.count("high frequencies") == 2
    (arrays_path,) = tmp_path.glob("*.npz")
    with np.load(arrays_path) as arrays:
        change = np.abs(arrays["adversarial"] - arrays["images"])
        assert 0 < change.max() <= (1 if name == "deepfool" else 0.3)
        for sample, image in zip(arrays["names"], arrays["images"]):
            written = np.asarray(Image.open(tmp_path / f"{sample}-adversarial.png"), dtype=float)
            assert np.abs(written - image[0] * 255).max() <= (256 if name == "deepfool" else 0.3 * 255 + 0.5)
            assert np.abs(written - image[0] * 255).max() > 2
    assert len(list(tmp_path.glob("*-more.png"))) == 1


def test_a_photo_is_turned_into_a_named_class(photo, tmp_path, capsys):
    torch.manual_seed(0)
    words = ("--model", "squeezenet1_0", "--target", "bell cote", "--steps", 2, "--norm", "l2", "--method", "GradCAM")
    call(photo, *words, "--output", tmp_path / "out")
    assert "photo: " in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "photo-adversarial.png",
        "photo.npz",
        "photo.png",
    ]


def test_accuracy_against_epsilon(checkpoint, tmp_path, capsys):
    words = ("--samples", 40, "--steps", 3, "--curve", "0.3,0,51/255", "--output", tmp_path)
    call("--model", checkpoint, *words)
    rows = re.findall(r"^([\d.]+) +([\d.]+)% +([\d.]+)%$", capsys.readouterr().out, flags=re.M)
    assert [float(row[0]) for row in rows] == [0, 0.2, 0.3]
    fgsm, pgd = ([float(row[column]) for row in rows] for column in (1, 2))
    assert fgsm[0] == pgd[0] > 50 and pgd[2] < pgd[0]
    assert pgd == sorted(pgd, reverse=True) and all(strong <= weak for strong, weak in zip(pgd, fgsm))
    with np.load(tmp_path / "robustness-linf.npz") as arrays:
        assert arrays["pgd"].tolist() == pytest.approx([share / 100 for share in pgd], abs=1e-3)


def test_pointless_attacks_are_told(checkpoint, tmp_path, capsys):
    words = ("--model", checkpoint, "--samples", 10, "--epsilon", "0.5/255", "--method", "none", "--steps", 1)
    call(*words, "--target", 3, "--output", tmp_path)
    printed = capsys.readouterr().out
    assert "below an 8-bit pixel's step of 1/255" in printed
    assert re.search(r"note: digits-val-\d-is-\d is seen as 3 to begin with", printed)
    for path in tmp_path.glob("*-adversarial.png"):
        with np.load(next(tmp_path.glob("*.npz"))) as arrays:
            names = arrays["names"].tolist()
            if (name := path.name.removesuffix("-adversarial.png")) in names:
                original = np.round(arrays["images"][names.index(name)][0] * 255)
                assert np.array_equal(np.asarray(Image.open(path)), original)


def test_misclassified_samples_are_told(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(attack, "attack_some", lambda *anything: None)
    call("--model", checkpoint, "--samples", 60)
    told = re.findall(r"note: digits-val-\d+-is-(\d) is misclassified as (\d) to begin with", capsys.readouterr().out)
    assert told and all(truth != seen for truth, seen in told)


@pytest.mark.parametrize("text", ["-0.1", "much", "1/0", "inf", "nan"])
def test_an_epsilon_that_is_none_is_refused(checkpoint, text, capsys):
    with pytest.raises(SystemExit) as exit_:
        call("--model", checkpoint, f"--epsilon={text}")
    assert exit_.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "Saliencey"), "did you mean 'Saliency'"),
        (("--target", "10"), "class 10 is out of range"),
        (("--steps", "0"), "--steps must be at least 1"),
        (("missing.png",), "missing.png"),
        (("--attack", "fgsm", "--norm", "l2"), "--norm l2 goes with pgd"),
        (("--attack", "deepfool", "--epsilon", "0.1"), "--epsilon goes with pgd and fgsm"),
    ],
)
def test_mistakes_are_told(checkpoint, tmp_path, words, message):
    with pytest.raises((ValueError, OSError, console.UserError), match=message):
        call("--model", checkpoint, *words, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
