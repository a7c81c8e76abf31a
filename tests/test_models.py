"""A few networks of the matrix behind docs/models.md, and that page itself."""

import json
from unittest.mock import patch

import pytest

from conftest import ROOT
from modelling import replicas
from modelling.architectures import ARCHITECTURES, SMALL
from modelling.checks import COLUMNS, GROUPS
from modelling.matrix import examined, wrong
from modelling.page import mark

pytestmark = pytest.mark.slow
CHOSEN = [one for one in ARCHITECTURES if one.name in SMALL]


@pytest.mark.parametrize("architecture", CHOSEN, ids=lambda one: one.title)
def test_every_cell_is_right_or_refused(architecture):
    if architecture.spec.startswith("timm:"):
        pytest.importorskip("timm")
    row = examined(architecture, COLUMNS)
    assert wrong({architecture.title: row}) == []
    assert sum(verdict == "right" for verdict in row["cells"].values()) >= 12


def test_a_wrong_method_is_a_wrong_cell():
    (architecture,) = [one for one in ARCHITECTURES if one.name == "squeezenet1_0"]
    with patch.object(replicas.Case, "gradient", lambda case, x: x):
        (line,) = wrong({architecture.title: examined(architecture, ["Saliency"])})
    assert "Saliency, wrong: apart by" in line.replace(": wrong", ", wrong")


def test_the_page_holds_every_network_and_no_wrong_cell():
    rows = json.loads((ROOT / "docs/models.json").read_text(encoding="utf-8"))
    assert list(rows) == [one.title for one in ARCHITECTURES] and len(rows) >= 30
    assert all(set(row["cells"]) == set(COLUMNS) for row in rows.values()) and wrong(rows) == []
    assert sorted(name for columns in GROUPS.values() for name in columns) == sorted(COLUMNS)
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    for title, row in rows.items():
        for columns in GROUPS.values():
            assert f"| {title} | `{row['layer']}` | {' | '.join(mark(row['cells'][c]) for c in columns)} |" in page
