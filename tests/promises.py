"""A table of promises: what was promised, which fault was injected, how often, and whether the promise held.

A test calls the fixture ``record_promise`` and goes on; whether it passes decides the row's result. With
``--promises docs/reliability.md`` the rows go into that page, and into a JSON file beside it, where the rows of
tests that this run left out stay as they were.
"""

import json
import os
from collections.abc import Callable
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
HELD, BROKEN, NOT_TRIED = "held", "broken", "not tried"
CPU = "CPU"

PAGE = """# Reliability

What a run promises, the fault that was injected to hold it to its word, how many times, and what came of it. Written
by `make faults`; every row is a test under `tests/`.

{tables}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--promises", metavar="FILE.md", type=Path, help="write the table of promises to this page")


@pytest.fixture
def record_promise(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """``record_promise(promise, fault, tries=1, figure="", group="Runs", device=None)``: a row of the table.

    Call it before the fault, so that a failure is counted too. Rows that share promise and fault are put
    together and their tries added up. The row comes back: ``row["figure"] = …`` adds what was measured, and
    ``row["tries"]`` can be set once it is known. ``group`` is the heading that the row stands under. ``device`` is what
    was computed on: by default the GPU that is there in a test marked ``any_device`` or ``cuda``, else the CPU.
    """
    marked = any(request.node.get_closest_marker(name) for name in ("any_device", "cuda"))
    usual = torch.cuda.get_device_name() if marked and torch.cuda.is_available() else CPU

    def record(
        promise: str, fault: str, tries: int = 1, figure: str = "", group: str = "Runs", device: str | None = None
    ) -> dict[str, Any]:
        row = {"group": group, "promise": promise, "fault": fault, "tries": tries, "figure": figure}
        row["device"] = device or usual
        request.node.user_properties.append(("promise", row))
        return row

    return record


class Promises:
    """Gathers the rows of a run and writes them: registered only where ``--promises`` names a page."""

    def __init__(self, page: Path):
        self.page, self.store = page, page.with_suffix(".json")
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the rows of a test that has run, in whichever process."""
        rows = [dict(value) for name, value in report.user_properties if name == "promise"]
        if report.when != "call" or not rows:
            return
        result = {"passed": HELD, "failed": BROKEN}.get(report.outcome, NOT_TRIED)
        if result == NOT_TRIED and isinstance(report.longrepr, tuple):
            rows = [row | {"figure": report.longrepr[2].removeprefix("Skipped: ")} for row in rows]
        devices = "".join(sorted({f" on {row['device']}" for row in rows if row["device"] != CPU}))
        name = f"{report.nodeid}{devices}"  # so that a run on one device leaves the rows of another
        self.rows[name] = [row | {"result": result, "date": date.today().isoformat()} for row in rows]
        self.write()

    def write(self) -> None:
        """Write both files, each under a temporary name first: after each test, for a long run may be cut short."""
        stored = json.loads(self.store.read_text(encoding="utf-8")) if self.store.exists() else {}
        kept = {name: rows for name, rows in stored.items() if (ROOT / name.partition("::")[0]).exists()}
        merged = dict(sorted((kept | self.rows).items()))
        self.page.parent.mkdir(parents=True, exist_ok=True)
        _write(self.store, json.dumps(merged, indent=1, ensure_ascii=False) + "\n")
        _write(self.page, PAGE.format(tables=tables([row for rows in merged.values() for row in rows])))


def tables(rows: list[dict[str, Any]]) -> str:
    """A Markdown table a group, rows of the same promise and fault in one."""
    parts = []
    for group, members in groupby(sorted(rows, key=lambda row: row["group"]), key=lambda row: row["group"]):
        together: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for row in members:
            together.setdefault((row["promise"], row["fault"], row.get("device", CPU)), []).append(row)
        lines = [f"## {group}", "", "| promise | fault injected | device | tries | result |"]
        lines.append("| --- | --- | --- | ---: | --- |")
        for (promise, fault, device), same in together.items():
            lines.append(f"| {promise} | {fault} | {device} | {sum(row['tries'] for row in same)} | {_verdict(same)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _verdict(rows: list[dict[str, Any]]) -> str:
    """The worst result of the rows, what was measured, and the day of the oldest."""
    results = {row["result"] for row in rows}
    worst = next(result for result in (BROKEN, NOT_TRIED, HELD) if result in results)
    figures = "; ".join(dict.fromkeys(row["figure"] for row in rows if row["figure"]))
    return f"{worst}{f' ({figures})' if figures else ''}, {min(row['date'] for row in rows)}"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def pytest_configure(config: pytest.Config) -> None:
    page = config.getoption("--promises")
    if page is not None and not hasattr(config, "workerinput"):  # pytest-xdist's workers only report
        config.pluginmanager.register(Promises(page), "promises")
