"""``explain.py concept`` and ``counterfactual`` as a person would call them."""

import re

import pytest
import torch
from PIL import Image

import console
from explaining import concept, counterfactual
from lit_models import LitCNN


def call(command, *words) -> None:
    parser = console.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network trained for a moment, in a checkpoint."""
    import lightning

    from datamodules import DigitsDataModule

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "small.ckpt"
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=6, limit_val_batches=0, enable_model_summary=False, **quiet)
    trainer.fit(LitCNN(channels=(8, 16), hidden=32, learning_rate=0.01), DigitsDataModule())
    trainer.save_checkpoint(path, weights_only=True)
    return path


def rows_of(printed):
    found = re.findall(r"^(\d)\s+(\d+)\s+([\d.]+)\s+([\d.]+)\s+([\d.e+-]+)  (.*)$", printed, re.MULTILINE)
    return {int(k): (int(n), float(score), float(other), float(p), verdict) for k, n, score, other, p, verdict in found}


@pytest.mark.parametrize("name", concept.MADE)
def test_the_table_says_what_the_test_finds_for_each_class(checkpoint, capsys, name):
    call(concept, "--model", checkpoint, "--samples", 100, "--concept", name)
    rows = rows_of(capsys.readouterr().out)
    assert set(rows) == set(range(10)) and sum(row[0] for row in rows.values()) == 100
    assert len({row[1] for row in rows.values()}) > 3
    for _, score, other, p, verdict in rows.values():
        if p == 0.05:
            continue  # printed rounded, it may be on either side
        expected = "no more than chance" if p >= 0.05 else "speaks for it" if score > other else "speaks against it"
        assert verdict == expected


def test_a_concept_of_a_folder(checkpoint, tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    for folder, closed in (("loops", True), ("others", False)):
        (tmp_path / folder).mkdir()
        for n in range(12):
            ink = concept.stroke(torch.Size((60, 60)), closed, generator)
            Image.fromarray((255 * ink).byte().numpy()).save(tmp_path / folder / f"{n}.png")
    words = ("--model", checkpoint, "--samples", 20, "--sets", 3, "--target", 3, "--concept", tmp_path / "loops")
    call(concept, *words, "--random", tmp_path / "others")
    assert list(rows_of(capsys.readouterr().out)) == [3]
    with pytest.raises(console.UserError, match="give --random FOLDER"):
        call(concept, *words)
    with pytest.raises(console.UserError, match="--concept: 12 images do not fill 13 sets"):
        call(concept, *words, "--random", tmp_path / "others", "--sets", 13)


def test_strokes_are_closed_or_open():
    for seed in range(20):
        closed, opened = (
            concept.stroke(torch.Size((28, 28)), whole, torch.Generator().manual_seed(seed)) for whole in (True, False)
        )
        inside = _enclosed(closed < 0.5)
        assert inside and not _enclosed(opened < 0.5)


def _enclosed(paper: torch.Tensor) -> bool:
    """Whether some paper cannot be reached from the corner."""
    from scipy.ndimage import label

    return label(paper.numpy())[1] > 1


def test_the_picture_says_what_is_different(checkpoint, tmp_path, capsys):
    words = ("--model", checkpoint, "--samples", 3, "--steps", 30, "--target", 8, "--confidence", 0.6)
    call(counterfactual, *words, "--output", tmp_path)
    printed = capsys.readouterr().out
    ends = re.findall(r"^(\S+): \d [\d.]+% -> (\d) [\d.]+%, L2 ([\d.]+)(.*)$", printed, re.MULTILINE)
    assert len(ends) == 3 and sum(end == "8" for _, end, _, _ in ends) >= 2
    for name, end, _, missed in ends:
        assert (missed == "") == (end == "8")
        assert Image.open(tmp_path / f"{name}-counterfactual.png").size == (28, 28)
    assert len(list(tmp_path.glob("*-and-2-more.png"))) == 1
