"""README and docs keep their word: snippets run, files and targets exist, commands and options are known."""

import importlib
import re
import shlex

import pytest
from PIL import Image

from conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:python|\.venv/bin/python) (scripts/\w+\.py[^`\n#\\]*(?:\\\n[^`\n#\\]*)*)")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The folder of images that a snippet reads, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for part, count in (("train", 4), ("val", 2)):
        for shade, name in enumerate(("cat", "dog")):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for n in range(count):
                Image.new("RGB", (40 + n, 36), (200 * shade, 90, 10 * n)).save(folder / f"{n}.png")


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippets_run_as_they_stand(number, photos):
    names: dict = {}
    exec(compile(SNIPPETS[number], f"README snippet {number}", "exec"), names)
    shapes = {name: tuple(value.shape) for name, value in names.items() if hasattr(value, "shape")}
    for listed, shape in re.findall(r"^([\w, ]+) = .*# \((.*)\)$", SNIPPETS[number], re.MULTILINE):
        assert shapes[listed.partition(",")[0]] == tuple(int(size) for size in shape.split(","))


def test_every_path_it_names_exists():
    paths = re.findall(r"`((?:lit_models|datamodules|interpretability|callbacks|scripts|docs|configs)/[\w./]*)`", TEXT)
    paths += re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_and_make_target_exists(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_script_and_subcommand_in_a_command_exists(page):
    from explain import SUBCOMMANDS

    for command in COMMAND.findall(page.read_text(encoding="utf-8")):
        script, *words = shlex.split(command.replace("\\\n", " ").replace("…", ""))
        assert (ROOT / script).is_file(), command
        if script == "scripts/explain.py" and words and "|" not in words[0]:
            assert words[0] in SUBCOMMANDS, command
            options = parser_of(words[0])
            assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, command


def parser_of(subcommand: str) -> set[str]:
    """The options of a subcommand of ``explain.py``."""
    import console

    parser = console.ArgumentParser()
    importlib.import_module(f"explaining.{subcommand}").add_arguments(parser)
    return set(parser._option_string_actions)


def test_every_experiment_and_subcommand_it_names_exists():
    from explain import SUBCOMMANDS
    from training.arguments import experiments

    named = re.findall(r"scripts/train\.py (\w+)", TEXT)
    assert named and set(named) <= set(experiments())
    assert set(re.findall(r"scripts/explain\.py (\w+)", TEXT)) == set(SUBCOMMANDS)
