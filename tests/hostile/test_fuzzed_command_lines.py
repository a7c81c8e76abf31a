"""Whatever is typed or written into a configuration file: understood or refused in a few lines, never a traceback."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hostile.fuzzed_words import TRAIN, Words
from hostile.parse_only import EXPLANATIONS, MAINS, Outcome, checkpoint_files, option_names, parsing_only, run

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run, an image and files that are not what they seem; no command line gets beyond parsing."""
    here = tmp_path_factory.mktemp("fuzzed")
    checkpoint = checkpoint_files(here)
    (here / "best.ckpt").write_bytes(checkpoint.read_bytes())
    (here / "broken.ckpt").write_bytes(checkpoint.read_bytes()[:500])
    (here / "notes.txt").write_text("notes")
    (here / "empty").mkdir()
    (here / "run").symlink_to(checkpoint.parents[1])
    pixels = np.zeros((28, 28), np.uint8)
    pixels[8:20, 12:16] = 255
    Image.fromarray(pixels).save(here / "image.png")
    before = Path.cwd()
    os.chdir(here)
    with parsing_only():
        yield here
    os.chdir(before)


def beginnings(command: str) -> list[list[str]]:
    """How an argument list of ``command`` may begin."""
    if command == "explain":
        return [["saliency"], ["nothing"], []]
    if command.startswith("explain"):
        checkpoints = [["--model", name] for name in ("best.ckpt", "run", "best.ckpt", "broken.ckpt", "absent.ckpt")]
        return [
            *checkpoints,
            ["image.png", "--model", "best.ckpt"],
            ["notes.txt", "--model", "run"],
            ["--model=nothing"],
        ]
    if command in ("train", "tune"):
        experiments = [[name] for name in ("digits", "toy", "mnist", "mnist_mlp", "digit")]
        return [*experiments, ["digits", "--config=own.yaml"], ["--config", "own.yaml"], ["--resume", "run"]]
    return [["run"], ["best.ckpt"], ["broken.ckpt"], ["notes.txt"]] if command == "evaluate" else [[]]


FEW, PARTS, MANY = 300, 4, 2500


def check(command: str, words: list[str], outcome: Outcome) -> None:
    """Done, or refused: ``error: …`` in five lines at most, with nothing in them that a terminal would obey."""
    assert outcome.code in (0, 2), (command, words, outcome)
    assert "Traceback" not in outcome.error and not Path("ran").exists(), (command, words)
    if outcome.code == 2:
        lines = outcome.error.split("\n")
        first = next((n for n, line in enumerate(lines) if line.startswith("error: ")), None)
        if not words or outcome.error.startswith("usage:"):
            return
        assert first is not None, (command, words, outcome)
        told = lines[first:-1]
        assert len(told) <= 5 and len(told[0]) > len("error: "), (command, words, outcome)
        assert all(line.isprintable() for line in told), (command, words, outcome)


def fuzz(seed: int, tries: int) -> Counter:
    """Run ``tries`` argument lists and count how they ended."""
    options = {command: option_names(command) for command in MAINS}
    options["train"] = options["evaluate"] = [*options["train"], *TRAIN]
    options["tune"] += options["train"]
    texts = [path.read_text(encoding="utf-8") for path in sorted(CONFIGS.glob("*.yaml"))]
    generator = Words(seed, options, texts)
    ends: Counter = Counter()
    for _ in range(tries):
        command = generator.command()
        Path("own.yaml").write_bytes(generator.file())
        words = generator.arguments(command, beginnings(command))
        try:
            outcome = run(command, words)
        except BaseException as error:
            raise AssertionError(
                f"{command} {words} ended in {error!r}; own.yaml: {Path('own.yaml').read_bytes()!r}"
            ) from error
        check(command, words, outcome)
        ends[command, outcome.code] += 1
    return ends


def test_every_command_line_can_be_understood_and_refused(folder):
    for name in EXPLANATIONS:
        assert run(f"explain {name}", ["--model", "best.ckpt"]).code == 0
    assert run("train", ["digits"]).code == run("evaluate", ["run"]).code == run("regression", []).code == 0
    assert run("benchmark", []).code == 0
    assert run("tune", ["digits"]).code == 0
    for command in MAINS:
        assert run(command, ["--no-such-option"]).code == 2


@pytest.mark.slow
def test_fuzz(folder):
    ends = fuzz(0, FEW)
    assert {code for _, code in ends} == {0, 2}


@pytest.mark.faults
@pytest.mark.parametrize("part", range(PARTS))
def test_fuzz_long(folder, part, record_promise):
    row = record_promise(
        "What is typed is understood or refused in a few lines",
        "random arguments, broken YAML",
        MANY,
        group="Hostile input",
    )
    ends = fuzz(1 + part, MANY)
    understood = sum(count for (_, code), count in ends.items() if code == 0)
    row["figure"] = f"{understood} understood, {MANY - understood} refused"
