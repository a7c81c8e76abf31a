"""Every message that a person can provoke, on one page for review: docs/errors.md; and every remedy put to the test.

After a change of a message: ``BACKLIT_WRITE_ERRORS=1 pytest -m slow tests/hostile/test_messages.py``.
"""

import os
import re
import shlex
import shutil
import warnings
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hostile.mistakes import MISTAKES, Mistake
from hostile.parse_only import Outcome, building_only, checkpoint_files, run
from hostile.test_image_bombs import png
from hostile.test_untrusted_files import Payload

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
HEAD = """# Error messages

What each command line says to a mistake; exit code 2, no traceback. Every remedy that a message suggests is run by
`tests/hostile/test_messages.py`, which also writes this page (`BACKLIT_WRITE_ERRORS=1`) and fails when it is old.
"""
FILES = {
    "good.yaml": "model: {class_path: lit_models.LitMLP}\ndata: {class_path: datamodules.ToyDataModule}\n",
    "broken.yaml": "model: [1, 2\n",
    "list.yaml": "- 1\n",
    "deep.yaml": "[" * 1000,
    "section.yaml": "modle: {class_path: lit_models.LitCNN}\n",
    "nodata.yaml": "model: {class_path: lit_models.LitCNN}\n",
    "notes.txt": "notes",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with everything that the command lines name, good and bad."""
    here = tmp_path_factory.mktemp("mistakes")
    for name, content in FILES.items():
        (here / name).write_text(content)
    (here / "latin.yaml").write_bytes("# ü".encode("utf-16"))
    best = checkpoint_files(here)
    settings = (best.parents[1] / "config.yaml").read_text()
    small = re.sub(r"channels: .*", "channels: [2, 2]\n    kernel_size: 3", settings)
    small = re.sub(r"hidden: .*", "hidden: 4", re.sub(r"batch_norm: .*", "batch_norm: false", small))
    (best.parents[1] / "config.yaml").write_text(re.sub(r"  callbacks:\n(    .*\n)+", "", small))
    content = torch.load(best, weights_only=True)
    for name in ("last.ckpt", "broken.ckpt"):
        shutil.copy(best, best.with_name(name))
    (best.with_name("broken.ckpt")).write_bytes(best.read_bytes()[:500])
    torch.save(content | {"loops": Payload()}, best.with_name("hostile.ckpt"))
    torch.save(content["state_dict"], best.with_name("weights.ckpt"))
    torch.save(content | {"state_dict": {"head.weight": torch.ones(2)}}, best.with_name("other.ckpt"))
    for name in ("best.ckpt", "broken.ckpt", "hostile.ckpt", "other.ckpt"):
        shutil.copy(best.with_name(name), here / name)
    shutil.copy(best, here / "lonely.ckpt")
    (here / "run").symlink_to(best.parents[1])
    (here / "empty").mkdir()
    pixels = np.zeros((28, 28), np.uint8)
    Image.fromarray(pixels).save(here / "blank.png")
    pixels[8:20, 12:16] = 255
    Image.fromarray(pixels).save(here / "image.png")
    (here / "bomb.png").write_bytes(png(60_000, 60_000))
    before = Path.cwd()
    os.chdir(here)
    with building_only(), warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("BACKLIT_CACHE", str(here / "cache"))
        yield here
    os.chdir(before)
    os.environ.pop("BACKLIT_RUN_DIRECTORY", None)


def told(outcome: Outcome, folder: Path) -> str:
    """The message, without the place of this test and of the repository."""
    message = outcome.error[outcome.error.index("error: ") :]
    return message.rstrip("\n").replace(str(folder.resolve()), "…").replace(str(folder), "…").replace(str(ROOT), "…")


def suggested(mistake: Mistake, message: str) -> str:
    """The mistaken words with the wrong name replaced by the one that the message suggests."""
    found = re.search(
        r"unknown [^']*'([^']+)'.*?; (?:did you mean '([^']+)'|there are: ([^,…]+)|valid: ([^,…]+))", message
    )
    assert found, f"no remedy is written, and none suggested: {message}"
    wrong, right = found[1], next(name.strip() for name in found.groups()[1:] if name)
    assert wrong != right
    words = [word.replace(wrong, right) for word in mistake.arguments]
    if words == mistake.arguments:  # an option's short form, or a name without its package
        short, long = wrong.rpartition(".")[2], right.rpartition(".")[2]
        words = [word.replace(short, long) for word in mistake.arguments]
    return shlex.join(words)


def page(messages: dict[Mistake, str]) -> str:
    """The page: command line by command line, the mistake and what is said to it."""
    parts = [HEAD]
    for command, mistakes in groupby(MISTAKES, lambda mistake: mistake.command):
        script, *more = command.split()
        parts.append(f"\n## {script}.py{''.join(f' {word}' for word in more)}\n\n```console\n")
        for mistake in mistakes:
            parts.append(f"$ {script}.py {' '.join([*more, mistake.words])}\n{messages[mistake]}\n")
        parts.append("```\n")
    return "".join(parts)


@pytest.fixture(scope="module")
def messages(folder) -> dict[Mistake, str]:
    """What is said to each mistake."""
    found = {}
    for mistake in MISTAKES:
        outcome = run(mistake.command, mistake.arguments)
        assert outcome.code == 2 and "error: " in outcome.error, (mistake, outcome)
        found[mistake] = told(outcome, folder)
    return found


@pytest.mark.slow
def test_the_page_of_messages_is_up_to_date(messages):
    text = page(messages)
    if os.environ.get("BACKLIT_WRITE_ERRORS"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text


@pytest.mark.slow
def test_every_message_is_short_and_names_what_is_wrong(messages):
    for mistake, message in messages.items():
        lines = message.splitlines()
        assert len(lines) <= 5 and all(line.isprintable() for line in lines), (mistake, message)
        assert not re.search(r"Traceback|<class|object has no|NoneType|weights_only|0x[0-9a-f]{6}", message), (
            mistake,
            message,
        )
        words = [Path(word.lstrip("-").partition("=")[0].rstrip("+")).name for word in mistake.arguments]
        named = [re.escape(word.rpartition(".")[2] or word) for word in words if word] + ["--model must be given"]
        assert re.search("|".join(named), message), (mistake, message)


@pytest.mark.slow
def test_every_remedy_works(messages, record_promise):
    row = record_promise("What an error message suggests works", "every known mistake", group="Hostile input")
    tried = {}
    for mistake, message in messages.items():
        remedy = mistake.remedy if mistake.remedy is not None else suggested(mistake, message)
        if (mistake.command, remedy) not in tried:
            os.environ.pop("BACKLIT_RUN_DIRECTORY", None)
            tried[mistake.command, remedy] = run(mistake.command, shlex.split(remedy))
        outcome = tried[mistake.command, remedy]
        assert outcome.code == 0, (mistake, message, remedy, outcome.error)
    row |= {"tries": len(tried)}
