"""The README keeps its word: its snippets run, its files exist, its options are known."""

import re

import pytest

from conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippets_run_as_they_stand(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(SNIPPETS[number], f"README snippet {number}", "exec"), names)
    shapes = {name: tuple(value.shape) for name, value in names.items() if hasattr(value, "shape")}
    for name, shape in re.findall(r"^(\w+) = .*# \((.*)\)$", SNIPPETS[number], re.MULTILINE):
        assert shapes[name] == tuple(int(size) for size in shape.split(","))


def test_every_path_it_names_exists():
    paths = re.findall(r"`((?:lit_models|datamodules|interpretability|callbacks|scripts|docs|configs)/[\w./]*)`", TEXT)
    paths += re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_experiment_and_subcommand_it_names_exists():
    from explain import SUBCOMMANDS
    from training.arguments import experiments

    named = re.findall(r"scripts/train\.py (\w+)", TEXT)
    assert named and set(named) <= set(experiments())
    assert set(re.findall(r"scripts/explain\.py (\w+)", TEXT)) == set(SUBCOMMANDS)
