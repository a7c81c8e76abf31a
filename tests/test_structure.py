"""The repository's own rules: who imports whom, what the scripts' configurations name."""

import ast
import configparser
import importlib
import sys
from pathlib import Path

import pytest
import yaml

from conftest import ROOT

PACKAGES = {"lit_models", "datamodules", "interpretability", "callbacks"}
MAY_IMPORT = {
    "lit_models": {"lightning", "torchmetrics"},
    "datamodules": {"lightning", "torchvision", "sklearn", "filelock"},
    "interpretability": {
        "torchvision",
        "matplotlib",
        "sklearn",
        "PIL",
        "jinja2",
        "tqdm",
        "scipy",
        "safetensors",
        "skimage",
    },
    "callbacks": {
        "interpretability",
        "lightning",
        "torchmetrics",
        "matplotlib",
        "sklearn",
        "PIL",
        "tqdm",
        "tensorboard",
        "jinja2",
        "yaml",
    },
}
EVERYONE = {"torch", "numpy"}


def imports(path: Path) -> set[str]:
    """The top-level names of all absolute imports in a file, also those inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_imports_what_it_may(package):
    allowed = MAY_IMPORT[package] | EVERYONE | {package} | set(sys.stdlib_module_names)
    files = list((ROOT / package).rglob("*.py"))
    assert files
    allowed |= {path.stem for path in files if path.parent.name == "tsne"}  # its worker is a script of its own
    wrong = {str(path.relative_to(ROOT)): imports(path) - allowed for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_captum_is_an_oracle_and_a_peer_only():
    users = [p for folder in (*PACKAGES, "scripts") for p in (ROOT / folder).rglob("*.py") if "captum" in imports(p)]
    assert all(path.parent == ROOT / "scripts" / "benchmarks" for path in users)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_is_one_short_complete_file(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ") and len(text.splitlines()) <= 60
    assert {"seed_everything", "model", "data", "trainer", "checkpoint"} <= yaml.safe_load(text).keys()


def test_every_exported_name_exists():
    for package in PACKAGES:
        module = importlib.import_module(package)
        assert module.__all__ and all(hasattr(module, name) for name in module.__all__)


def test_every_subpackage_is_installed():
    """``setup.cfg`` lists its packages by name; a folder that is forgotten would be missing from a wheel."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for folder in (*PACKAGES, "scripts")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert listed == {name.replace("scripts", "backlit") for name in found} | {"backlit.configs"}
