"""The public names that ``make reference`` shows explain themselves: documented, with arguments that exist."""

import importlib
import inspect
import re

import pytest

from conftest import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
MODULES = re.search(r"^REFERENCE := (.*)$", MAKEFILE, re.MULTILINE)[1].split()


def public(module) -> dict[str, object]:
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return {name: getattr(module, name) for name in names if callable(getattr(module, name))}


def arguments(docstring: str) -> set[str]:
    """The names under ``Args:``."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE)
    lines = re.findall(r"^    (\w[\w, ]*):", section[1], re.MULTILINE) if section else []
    return {name.strip() for line in lines for name in line.split(",")}


def test_the_reference_shows_every_package():
    assert {"lit_models", "datamodules", "interpretability", "callbacks"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_and_all_it_offers_are_documented(name):
    module = importlib.import_module(name)
    offered = public(module)
    assert inspect.getdoc(module) and offered
    assert [key for key, value in offered.items() if not inspect.getdoc(value)] == []


@pytest.mark.parametrize("name", MODULES)
def test_documented_arguments_exist(name):
    wrong = {}
    for key, value in public(importlib.import_module(name)).items():
        try:
            parameters = inspect.signature(value).parameters
        except (TypeError, ValueError):
            continue
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        wrong[key] = arguments((inspect.getdoc(value) or "") + "\n") - set(parameters)
    assert {key: names for key, names in wrong.items() if names} == {}
