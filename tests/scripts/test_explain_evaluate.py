"""``explain.py evaluate`` as a person would call it."""

import csv

import pytest
import torch

import console
from explaining import evaluate
from lit_models import LitCNN


def arguments(*words: str):
    parser = console.ArgumentParser()
    evaluate.add_arguments(parser)
    return parser.parse_args(list(words))


QUICK = ("--samples", "2", "--n-steps", "4", "--n-squares", "4", "--n-noises", "1", "--n-stages", "2")


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


def test_table_and_pictures_of_a_checkpoint(checkpoint, tmp_path, capsys):
    methods = ("Saliency", "GradCAM", "LRP epsilon_gamma", "DeepLift")
    named = [word for name in methods for word in ("--method", name)]
    evaluate.run(arguments("--model", str(checkpoint), *QUICK, *named, "--output", str(tmp_path / "out")))
    printed = capsys.readouterr().out
    lines = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    assert lines[0] == "method" and lines[2:7] == [*methods, "random map"]
    assert lines[7] == "method" and set(lines[9:]) == {*methods, "random map"}  # the ranking
    assert "the randomisation check" in printed
    with (tmp_path / "out" / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    deeplift = {row["measure"]: float(row["mean"]) for row in rows if row["method"] == "DeepLift"}
    assert deeplift["completeness"] < 1e-3 and deeplift["sensitivity"] > 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "agreement.png",
        "evaluation.csv",
        "measures.png",
        "randomization.png",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "Saliencey"), "did you mean 'Saliency'"),
        (("--n-stages", "0"), "n_stages must be at least 1"),
        (("--target", "11"), "class 11 is out of range"),
        (("--method", "GradCAM", "--layer", "stages.7"), "stages.7"),
    ],
)
def test_errors_name_the_option(checkpoint, tmp_path, words, message):
    with pytest.raises((ValueError, console.UserError), match=message):
        evaluate.run(arguments("--model", str(checkpoint), *QUICK, "--output", str(tmp_path), *words))
    assert list(tmp_path.iterdir()) == []


def test_a_mask_is_a_box_or_an_image(tmp_path):
    from PIL import Image

    box = evaluate.read_mask("1,2,4,7", (8, 10))
    assert box.sum() == 15 and box[2:7, 1:4].all()
    Image.new("L", (20, 16)).save(tmp_path / "mask.png")
    with pytest.raises(console.UserError, match="holds none or all of the 8 x 10 pixels"):
        evaluate.read_mask(str(tmp_path / "mask.png"), (8, 10))
    with pytest.raises(console.UserError, match="neither an image file nor left,top,right,bottom"):
        evaluate.read_mask("1,2,4", (8, 10))
    image = Image.new("L", (20, 16))
    image.paste(255, (10, 0, 20, 16))
    image.save(tmp_path / "mask.png")
    half = evaluate.read_mask(str(tmp_path / "mask.png"), (8, 10))
    assert half[:, 6:].all() and not half[:, :4].any()
