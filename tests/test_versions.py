"""Stated versions: what setup.cfg allows at the least is what the lowest environment installs, and a warning tells."""

import configparser
from importlib import metadata

import pytest
from packaging.requirements import Requirement

import versions
from conftest import ROOT


def stated() -> dict[str, Requirement]:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return {r.name: r for r in map(Requirement, settings["options"]["install_requires"].split("\n")[1:])}


def test_the_lowest_versions_are_the_lower_bounds():
    lines = (ROOT / "constraints" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    lowest = dict(line.split("==") for line in lines if "==" in line)
    bounds = {
        name: specifier.version
        for name, requirement in stated().items()
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }
    assert {name: tuple(map(int, version.split("."))) for name, version in lowest.items()} == {
        name: tuple(map(int, [*version.split("."), "0", "0"][:3])) for name, version in bounds.items()
    }


@pytest.mark.parametrize("name", ["torch", "torchvision", "lightning", "torchmetrics", "scikit-learn", "jsonargparse"])
def test_a_version_outside_the_stated_range_is_told_in_one_line(name, monkeypatch, capsys):
    monkeypatch.setattr(metadata, "requires", lambda project: [str(r) for r in stated().values()])
    versions.warn()
    assert capsys.readouterr().err == ""
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda asked: "0.1" if asked == name else installed(asked))
    versions.warn()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"warning: not tested with {name} 0.1 (stated: ")


def test_nothing_is_told_where_the_project_is_not_installed(monkeypatch):
    def absent(project):
        raise metadata.PackageNotFoundError(project)

    monkeypatch.setattr(metadata, "requires", absent)
    assert list(versions.outside_stated_range()) == []
