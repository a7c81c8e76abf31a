"""`explain.py` and its subcommand `saliency`, run as a person would."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

import console
import explain as command
from explaining import inputs, saliency
from interpretability import load_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def explain(monkeypatch, capsys):
    """Runs the command line in this process: what it printed, or the error it ended with."""

    def call(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["explain.py", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            console.run(command.main)
        printed = capsys.readouterr()
        assert stop.value.code == code, printed.err
        return printed.out if code == 0 else printed.err

    return call


def test_help_names_the_subcommands_without_torch(explain):
    page = explain("--help")
    assert all(name in page for name in ("saliency", "evaluate", "features", "attack", "page"))
    lines = (
        "import runpy, sys",
        "sys.path.insert(0, 'scripts')",
        "sys.argv = ['explain.py', 'saliency', '--help']",
        "try: runpy.run_path('scripts/explain.py', run_name='__main__')",
        "except SystemExit: print('torch' in sys.modules)",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert "(default: None)" not in done.stdout and "(default: val)" in done.stdout
    assert "--target" in done.stdout and done.stdout.endswith("False\n"), done.stderr


def test_an_unknown_subcommand_is_one_line(explain):
    assert explain("salience", code=2) == "error: unknown subcommand 'salience'; did you mean 'saliency'?\n"


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    torch.manual_seed(0)
    torch.save(models.squeezenet1_1().state_dict(), path)
    return ["--model", "squeezenet1_1", "--weights", path]


def test_a_folder_of_images_gives_figures_arrays_and_predictions(tmp_path, squeezenet, explain):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, shade in (("dark", 40), ("light", 200)):
        Image.effect_noise((90, 70), shade).save(folder / f"{name}.png")
    targets = ["--target", "tiger cat", "--target", 5]
    methods = ["--method", "Saliency", "--method", "GradCAM"]
    output = explain("saliency", folder, *squeezenet, *targets, *methods, "--output", tmp_path / "out")
    assert output.count("%") == 10 and "dark\n" in output
    arrays = np.load(tmp_path / "out" / "dark-and-1-more-Saliency.npz")
    assert arrays["input"].shape == (4, 3, 224, 224)
    assert arrays["targets"].tolist() == [282, 5, 282, 5]
    assert arrays["names"].tolist() == ["dark", "dark", "light", "light"]
    assert len(set(arrays.files) - {"images", "names", "targets", "input"}) == 3
    cam = np.load(tmp_path / "out" / "dark-and-1-more-GradCAM.npz")
    assert "input" not in cam.files
    assert (tmp_path / "out" / "dark-and-1-more-GradCAM.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--target", "tigre cat"], "unknown class 'tigre cat'; did you mean 'tiger cat'?"),
        (["--target", "1000"], "class 1000 is out of range: the model has 1000 outputs"),
        (["--target", "CARDIGAN"], "class 'CARDIGAN' is ambiguous: use its index, one of 264, 474"),
        (["--method", "Salincy"], "unknown method 'Salincy'; did you mean 'Saliency'?"),
        (["--method", "GradCAM", "--layer", "input"], "GradCAM explains a layer, not the input: name one with --layer"),
        (["--layer", "feature.12"], "unknown layer 'feature.12'; did you mean 'features.12'"),
    ],
)
def test_what_a_person_mistypes_is_named(tmp_path, squeezenet, words, error, explain):
    path = tmp_path / "image.png"
    Image.new("RGB", (30, 30)).save(path)
    assert explain("saliency", path, *squeezenet, *words, code=2).startswith(f"error: {error}")


def test_the_default_layers_are_the_last_blocks_of_three_resolutions():
    squeezenet = models.squeezenet1_0()
    assert inputs.spatial_layers(squeezenet.eval(), torch.rand(1, 3, 224, 224), 3) == [
        "features.5", "features.10", "features.12"
    ]  # fmt: skip
    resnet = models.resnet18().eval()
    assert inputs.spatial_layers(resnet, torch.rand(1, 3, 64, 64), 3) == ["layer2.1", "layer3.1", "layer4.1"]


def test_images_of_one_name_do_not_overwrite_each_other():
    assert inputs.distinct(["a", "b", "a", "a-2", "a"]) == ["a", "b", "a-2", "a-2-2", "a-3"]


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path, explain):
    from lightning import Trainer

    from lit_models import LitMLP

    model = LitMLP(hidden=(4,))  # of one number, not of images
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", default_root_dir=tmp_path)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "toy.ckpt")
    words = ["saliency", "--model", tmp_path / "toy.ckpt", "--output", tmp_path / "out"]
    assert "toy.ckpt: takes inputs of shape (1,), not images (C, H, W)" in explain(*words, code=2)
    stored = torch.load(tmp_path / "toy.ckpt", weights_only=True)
    stored["state_dict"]["output.weight"] = torch.zeros(3, 3)
    torch.save(stored, tmp_path / "broken.ckpt")
    words[2] = tmp_path / "broken.ckpt"
    error = explain(*words, code=2)
    assert "broken.ckpt: its weights or settings do not fit LitMLP" in error and "output.weight" in error


@pytest.mark.parametrize("make", [lambda path: path.write_text("a file"), lambda path: path.mkdir(mode=0o500)])
def test_an_output_that_cannot_be_written_is_named(tmp_path, squeezenet, make, explain):
    make(tmp_path / "out")
    Image.effect_noise((30, 30), 99).save(tmp_path / "image.png")
    words = ["--method", "Saliency", "--layer", "input", "--output", tmp_path / "out" / "maps"]
    if (tmp_path / "out").is_dir() and os.access(tmp_path / "out", os.W_OK):
        pytest.skip("this user may write anywhere")
    assert str(tmp_path / "out") in explain("saliency", tmp_path / "image.png", *squeezenet, *words, code=2)


def test_samples_of_a_checkpoint_of_ours_are_explained(tmp_path, explain):
    from lightning import Trainer

    from datamodules import DigitsDataModule
    from lit_models import LitCNN, LitMLP

    data = DigitsDataModule()
    for model in (LitCNN(channels=[4, 6], hidden=8), LitMLP((1, 28, 28), 10, (8,), loss="cross_entropy")):
        path = tmp_path / f"{type(model).__name__}.ckpt"
        trainer = Trainer(max_steps=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
                          enable_checkpointing=False, accelerator="cpu", default_root_dir=tmp_path)  # fmt: skip
        trainer.fit(model, data)
        trainer.save_checkpoint(path)
        loaded = load_model(str(path)).model
        assert type(loaded.model) is type(model)
        x, _ = data.probe_batch("val", 4)
        torch.testing.assert_close(loaded(x), model.eval()(x))
    arguments = ["saliency", "--model", tmp_path / "LitCNN.ckpt", "--samples", 3, "--method", "Occlusion"]
    explain(*arguments, "--layer", "input", "--output", tmp_path / "out")
    (archive,) = (tmp_path / "out").glob("*.npz")
    arrays = np.load(archive)
    assert arrays["images"].shape == arrays["input"].shape == (3, 1, 28, 28)


def test_what_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "junk.ckpt").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk\.ckpt cannot be read safely"):
        load_model(str(tmp_path / "junk.ckpt"))
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*absent\.ckpt"):
        load_model(str(tmp_path / "absent.ckpt"))


@pytest.mark.parametrize("spec", ["swin_t", "vit_b_32"])
def test_layers_are_drawn_as_maps_however_they_lie(spec):
    loaded = load_model(spec, size=64, arguments={"image_size": 64} if spec == "vit_b_32" else {})
    given = inputs.Inputs(loaded.model, torch.rand(2, 3, 64, 64), ["a", "b"], loaded.class_names)
    layers = inputs.spatial_layers(given.model, given.images[:1], 3)
    found = saliency.attribute(given, "InputXGradient", layers, [(0, 1), (1, 2)])
    for layer, (values, drawn) in found.items():
        rows = (
            values if spec == "swin_t" else values[:, 1:].unflatten(1, (2, 2))
        )  # of 2 x 2 patches, without the class token
        expected = rows.sum(-1)
        assert len(found) == len(layers) > 0 and drawn.shape == expected.shape, layer
        torch.testing.assert_close(drawn, expected)
