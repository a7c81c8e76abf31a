"""``explain.py features`` as a person would call it."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import console
from explaining import features, recipes
from lit_models import LitCNN

UNPENALISED = ("--l1", 0, "--total-variation", 0)


def call(*words) -> None:
    parser = console.ArgumentParser()
    features.add_arguments(parser)
    features.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained network in a checkpoint."""
    import lightning

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "small.ckpt"
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer.strategy.connect(LitCNN(channels=(4, 6), hidden=8))
    trainer.save_checkpoint(path, weights_only=True)
    return path


def test_all_classes_of_a_checkpoint(checkpoint, tmp_path, capsys):
    call("--model", checkpoint, "--steps", 20, "--output", tmp_path)
    lines = capsys.readouterr().out.splitlines()
    told = [re.fullmatch(r"(\d) +seen as \d [\d.]+%; as \1 in \d+ of 10 fresh views", line) for line in lines[:10]]
    assert all(told) and [match[1] for match in told] == [str(digit) for digit in range(10)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.npz", "classes.png"]
    with np.load(tmp_path / "classes.npz") as arrays:
        assert arrays["images"].shape == (10, 1, 28, 28) and arrays["labels"].tolist() == list("0123456789")
        assert not arrays["images"][:, :, :4].any()  # the margin of digits is black
        assert abs(arrays["images"][:, :, 4:24, 4:24].mean() - 0.5) > 0.02
    assert Image.open(tmp_path / "classes.png").width > 500


def test_channels_and_neurons_of_a_layer(checkpoint, tmp_path):
    call("--model", checkpoint, "--layer", "stages.1.0", "--steps", 3, "--output", tmp_path)
    with np.load(tmp_path / "stages.1.0.npz") as arrays:
        assert arrays["labels"].tolist() == [f"stages.1.0:{index}" for index in range(6)]  # as many as there are
    words = ("--layer", "stages.1.0", "--channel", 4, "--channel", 0, "--steps", 12)
    found = {}
    for kind in ((), ("--neuron",), ("--images", 2, "--diversity", 5), UNPENALISED):
        call("--model", checkpoint, *words, *kind, "--output", tmp_path)
        with np.load(tmp_path / "stages.1.0.npz") as arrays:
            found[kind] = arrays["images"]
    assert {kind: len(images) for kind, images in found.items()} == dict(zip(found, (2, 2, 4, 2)))
    assert np.abs(found[()] - found[("--neuron",)]).max() > 0.05
    assert found[()].mean() < 0.95 * found[UNPENALISED].mean()


def test_ablation_has_a_column_for_each_regulariser(checkpoint, tmp_path):
    call("--model", checkpoint, "--class", 3, "--class", 8, "--ablation", "--steps", 3, "--output", tmp_path)
    with np.load(tmp_path / "ablation.npz") as arrays:
        assert len(arrays["images"]) == 2 * len(recipes.ablation(ink=True))
    for ink in (True, False):
        columns = recipes.ablation(ink)
        penalised = [name for recipe in columns.values() for name in recipe.weights or {} if len(recipe.weights) == 1]
        assert penalised == list(recipes.PENALTIES)
        assert all(len(recipe.regularizers()) == 1 for recipe in columns.values() if len(recipe.weights or {}) == 1)


def test_any_torchvision_classifier(tmp_path, capsys):
    words = ("--model", "shufflenet_v2_x0_5", "--size", 32, "--steps", 2, "--class", "bell cote", "--class", 0)
    call(*words, "--output", tmp_path)
    assert capsys.readouterr().out.startswith("bell cote ")
    with np.load(tmp_path / "classes.npz") as arrays:
        assert arrays["images"].shape == (2, 3, 32, 32)


def test_a_class_with_a_layer_has_its_name(tmp_path, capsys):
    words = ("--model", "shufflenet_v2_x0_5", "--size", 32, "--steps", 1, "--class", 497, "--layer", "conv1")
    call(*words, "--images", 2, "--diversity", 0.1, "--output", tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(re.match(r"church +seen as .*; as church in ", line) for line in lines[:2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--layer", "stages.7"), r"unknown layer 'stages.7'"),
        (("--layer", "stages.0.0", "--channel", "9"), r"'stages.0.0' has 4 channels: 9 is not one"),
        (("--class", "12"), r"class 12 is out of range"),
        (("--class", "three"), r"unknown class 'three'"),
        (("--channel", "1"), r"name it with --layer"),
        (("--steps", "0"), r"--steps must be at least 1"),
        (("--size", "6"), r"takes no images of 6 × 6 pixels and 1 channels .* try --size"),
        (("--l1", "nan"), r"--l1 must be a finite number"),
        (("--parameterization", "furier"), r"did you mean 'fourier'"),
    ],
)
def test_mistakes_are_told(checkpoint, tmp_path, words, message):
    with pytest.raises((ValueError, console.UserError), match=message):
        call("--model", checkpoint, *words, "--output", tmp_path)
    assert not any(tmp_path.iterdir())


def test_many_classes_must_be_chosen_from():
    with pytest.raises(console.UserError, match="which of 1000 classes"):
        call("--model", "shufflenet_v2_x0_5", "--size", 32)


@pytest.mark.real_data
@pytest.mark.slow
def test_each_digit_is_recognised_afresh(mnist_dir, tmp_path, capsys):
    """By a network trained on MNIST, in views that the ascent did not see."""
    import lightning

    from datamodules import MNISTDataModule

    lightning.seed_everything(0)
    model = LitCNN(channels=(24, 32), hidden=256, batch_norm=True, learning_rate=0.006)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=1, limit_val_batches=0, **quiet)
    trainer.fit(model, MNISTDataModule(data_dir=str(mnist_dir), batch_size=256))
    trainer.save_checkpoint(tmp_path / "mnist.ckpt", weights_only=True)
    call("--model", tmp_path / "mnist.ckpt", "--output", tmp_path)
    shares = [int(share) for share in re.findall(r"in (\d+) of 10 fresh views", capsys.readouterr().out)]
    assert len(shares) == 10 and min(shares) >= 6
