"""docs/exercise.md and docs/evaluation.md are what their templates make of the stored numbers, and nothing else."""

import copy
import json
import re

import pytest

import console
from conftest import ROOT
from exercise import STAGES
from exercising.documents import render

DOCS = ROOT / "docs"
NUMBERS = json.loads((DOCS / "exercise.json").read_text(encoding="utf-8"))
TEMPLATES = sorted((DOCS / "templates").glob("*.md.j2"))
PICTURES = DOCS / "images" / "exercise"
SETTINGS = {"0.1", "0.7", "0.9", "1.0"}  # label smoothing, places on the x axis, SqueezeNet's version: nothing measured


def document(template) -> str:
    return (DOCS / template.name.removesuffix(".j2")).read_text(encoding="utf-8")


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_the_document_is_made_of_the_stored_numbers(template):
    assert render(template, NUMBERS) == document(template), "run: python scripts/exercise.py --document"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_no_measured_number_is_written_by_hand(template):
    text = template.read_text(encoding="utf-8")
    text = re.sub(
        r"\{\{.*?\}\}|\{%.*?%\}|```.*?```|`[^`\n]*`|eq\. [\d.]+(, [\d.]+)*|\]\([^)]*\)", "", text, flags=re.DOTALL
    )
    by_hand = set(re.findall(r"\d+\.\d+|\d+ %", text)) - SETTINGS
    assert by_hand <= {"95 %", "91 %", "2 %"}, by_hand


def test_another_number_makes_another_document():
    changed = copy.deepcopy(NUMBERS)
    changed["regression"]["none"]["training_mse"] += 0.01
    assert render(DOCS / "templates" / "exercise.md.j2", changed) != document(TEMPLATES[-1])


def test_a_sentence_that_the_numbers_contradict_is_not_written():
    changed = copy.deepcopy(NUMBERS)
    changed["regression"]["none"]["training_mse"] = 1.0
    with pytest.raises(console.UserError, match=r"claim 1 no longer holds: r\.none\.training_mse < "):
        render(DOCS / "templates" / "exercise.md.j2", changed)


def test_every_stage_has_run_and_every_stage_that_is_named_exists():
    assert set(NUMBERS) == set(STAGES)
    named = {name for template in TEMPLATES for name in re.findall(r"--only (\w+)", document(template))}
    assert named and named <= set(STAGES)


def test_all_of_it_takes_less_than_half_an_hour_on_two_cores():
    assert sum(stage["cpu_seconds"] for stage in NUMBERS.values()) / 2 < 30 * 60


def test_every_picture_is_there_is_used_and_is_small():
    shown = {name for template in TEMPLATES for name in re.findall(r"images/exercise/([\w.-]+)", document(template))}
    sizes = {path.name: path.stat().st_size for path in PICTURES.iterdir()}
    assert shown == set(sizes)
    assert max(sizes.values()) < 200_000 and sum(sizes.values()) < 3_000_000
