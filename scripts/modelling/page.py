"""The matrix as a page: a table of marks, and every reason of a refusal in words."""

import json
from pathlib import Path

import jinja2

from interpretability.whole_files import whole_file
from modelling.matrix import Row

TEMPLATES = Path(__file__).parent
RIGHT, WRONG, REFUSED = "✓", "✗", "–"


def mark(verdict: str) -> str:
    """A cell of the table."""
    return RIGHT if verdict == "right" else WRONG if verdict.startswith("wrong") else REFUSED


def reasons(rows: dict[str, Row]) -> dict[tuple[str, str], list[str]]:
    """(method, why it refuses) -> the networks."""
    found: dict[tuple[str, str], list[str]] = {}
    for title, row in rows.items():
        for column, verdict in row["cells"].items():
            if mark(verdict) == REFUSED:
                found.setdefault((column, verdict), []).append(title)
    return dict(sorted(found.items()))


def keep(rows: dict[str, Row], store: Path) -> None:
    """Write the numbers."""
    with whole_file(store) as partial:
        partial.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write(rows: dict[str, Row], groups: dict[str, list[str]], page: Path) -> Path:
    """Write the page; its path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    counts = {kind: sum(mark(v) == kind for r in rows.values() for v in r["cells"].values()) for kind in "✓✗–"}
    values = {"rows": rows, "groups": groups, "mark": mark, "reasons": reasons(rows), "counts": counts}
    with whole_file(page) as partial:
        partial.write_text(environment.get_template("models.md.j2").render(values), encoding="utf-8")
    return page
