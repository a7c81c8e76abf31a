"""docs/maths.md and the code name the same equations: what is cited exists, what must cite does."""

import inspect
import re
from collections import Counter
from pathlib import Path

import pytest
from torch.optim import Optimizer

from conftest import ROOT
from interpretability.attribution import METHODS, lrp_rules, rectified
from lit_models import LitMLP, functional, functional_conv, functional_maps, network, operations
from lit_models.optimizers import OPTIMIZERS

MATHS = (ROOT / "docs" / "maths.md").read_text(encoding="utf-8")
NUMBER = r"\d+\.\d+"
CITATION = re.compile(rf"eq\.\s({NUMBER}(?:(?:,| to| and)\s{NUMBER})*)")
DEFINED = re.findall(rf"\*\*\(({NUMBER})\)\*\*|\\tag\{{({NUMBER})\}}", MATHS)
DEFINED = [bold or tag for bold, tag in DEFINED]


def cited(text: str) -> set[str]:
    """Every number that ``eq. …`` names, those inside a range included."""
    numbers: set[str] = set()
    for citation in CITATION.findall(text):
        listed = re.findall(NUMBER, citation)
        numbers |= set(listed)
        for first, last in re.findall(rf"({NUMBER}) to ({NUMBER})", citation):
            start, end = DEFINED.index(first), DEFINED.index(last)
            numbers |= set(DEFINED[start : end + 1])
    return numbers


def source_files() -> list[Path]:
    folders = ("lit_models", "datamodules", "interpretability", "callbacks", "scripts")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_equations_are_numbered_in_order_and_once():
    assert [number for number, count in Counter(DEFINED).items() if count > 1] == []
    for chapter in {number.partition(".")[0] for number in DEFINED}:
        inside = [int(n.partition(".")[2]) for n in DEFINED if n.partition(".")[0] == chapter]
        assert inside == list(range(1, len(inside) + 1)), f"chapter {chapter}"


@pytest.mark.parametrize("folder", ["lit_models", "datamodules", "interpretability", "callbacks", "scripts", "docs"])
def test_every_equation_that_is_cited_exists(folder):
    files = [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md")]
    unknown = {str(p.relative_to(ROOT)): cited(p.read_text(encoding="utf-8")) - set(DEFINED) for p in files}
    assert {path: numbers for path, numbers in unknown.items() if numbers} == {}


def test_every_equation_is_used():
    """By the code, or by another derivation that goes on from it."""
    used = set().union(*(cited(path.read_text(encoding="utf-8")) for path in source_files()))
    beside = re.findall(rf"(?<!\*)\(({NUMBER})\)(?!\*)", MATHS)
    assert sorted(set(DEFINED) - used - set(beside)) == []


def functions_that_compute_gradients() -> dict[str, object]:
    found = {}
    for module in (functional, functional_conv, functional_maps, network, operations):
        found |= {
            f"{module.__name__}.{name}": value
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and name.endswith("_backward")
        }
    for module in (lrp_rules, rectified):
        found |= {name: value for name, value in vars(module).items() if name.endswith("_rule")}
    found["LitMLP._update"] = LitMLP._update
    for optimizer in OPTIMIZERS.values():
        assert issubclass(optimizer, Optimizer)
        found[f"{optimizer.__name__}._update"] = optimizer._update
    return found


@pytest.mark.parametrize("name", sorted(functions_that_compute_gradients()))
def test_every_backward_and_update_function_cites_its_equation(name):
    assert cited(inspect.getsource(functions_that_compute_gradients()[name]))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_attribution_method_cites_its_equation(name):
    assert cited(inspect.getdoc(METHODS[name]) or "")


def test_every_activation_has_a_forward_and_a_backward_of_one_equation():
    for name, (forward, backward) in functional.ACTIVATIONS.items():
        assert cited(inspect.getsource(forward)) == cited(inspect.getsource(backward)) != set(), name
