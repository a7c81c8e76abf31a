"""Documents whose numbers are measured: docs/templates/*.md.j2 and docs/exercise.json make docs/*.md.

A template asserts what its sentences say of the numbers with ``holds(…)``: where a new measurement contradicts the
text, the document is not written.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

import console
from exercising.workspace import Workspace, write_whole

HEAD = "<!-- made by `make exercise` of docs/templates/{name}.j2 and docs/exercise.json: edit those -->\n"


def write(work: Workspace) -> list[Path]:
    """Write every document for which all numbers are there; the paths written."""
    docs, written = work.numbers.parent, []
    for template in sorted((docs / "templates").glob("*.md.j2")):
        path = docs / template.name.removesuffix(".j2")
        try:
            write_whole(path, render(template, work.load()).encode())
        except jinja2.UndefinedError as error:
            print(f"{path.name} is not written: {error.message}; its stage has not run yet")
        else:
            written.append(path)
    return written


def render(template: Path, numbers: dict[str, Any]) -> str:
    """The document of a template and the stored numbers.

    Raises:
        jinja2.UndefinedError: a number that is not stored.
        console.UserError: a sentence that the numbers contradict; it names the place.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"pct": percent, "num": number, "sig": significant, "words": words}
    text = template.read_text(encoding="utf-8")

    def holds(condition: object) -> str:
        if not condition:
            raise console.UserError(f"{template.name}: claim {counted[0] + 1} no longer holds: {claims[counted[0]]}")
        counted[0] += 1
        return ""

    claims, counted = re.findall(r"holds\((.*?)\) *}}", text), [0]
    body = environment.from_string(text).render(**numbers, holds=holds, stored=stored(template.parent.parent))
    body = re.sub(r" +$", "", body, flags=re.MULTILINE)  # where a claim stood at the end of a line
    return HEAD.format(name=template.name.removesuffix(".j2")) + body


def stored(docs: Path) -> dict[str, Any]:
    """Results of long searches and trainings that are cited, by file name: docs/results/*.json."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((docs / "results").glob("*.json"))
    }


def percent(value: float, digits: int = 1) -> str:
    """0.9932 -> ``99.3 %``."""
    return f"{100 * value:.{digits}f} %"


def number(value: float, digits: int = 2) -> str:
    """So many decimals, with a true minus sign and separators between thousands."""
    return f"{round(value, digits) or 0.0:,.{digits}f}".replace("-", "−")


def significant(value: float, digits: int = 2) -> str:
    """So many significant digits, without an exponent."""
    return number(float(f"{value:.{digits}g}"), max(0, digits - 1 - _magnitude(value)))


def words(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]


def _magnitude(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])
