"""Which method works on which family of models: measured, and written to docs/models.md."""

import json
from collections.abc import Sequence
from pathlib import Path

import console

DOCS = Path(__file__).resolve().parents[1] / "docs"


def main() -> None:
    """Examine every architecture with every method; write the numbers and the page."""
    parser = console.ArgumentParser(prog="models.py", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", help="one architecture; may be repeated")
    parser.add_argument("--method", metavar="NAME", action="append", help="one column of the page; may be repeated")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page and its numbers")
    args = parser.parse_args()

    from tqdm import tqdm

    from modelling.architectures import ARCHITECTURES
    from modelling.checks import COLUMNS, GROUPS
    from modelling.matrix import examined, wrong
    from modelling.page import keep, write

    names = [one.name for one in ARCHITECTURES]
    for name in args.only or ():
        if name not in names:
            raise console.nearest(name, names, "architecture")
    for name in args.method or ():
        if name not in COLUMNS:
            raise console.nearest(name, COLUMNS, "method")
    chosen = [one for one in ARCHITECTURES if not args.only or one.name in args.only]
    store = args.docs / "models.json"
    anew = not (args.only or args.method) or not store.is_file()
    rows = {} if anew else json.loads(store.read_text(encoding="utf-8"))
    for architecture in tqdm(chosen, unit="network"):
        row = examined(architecture, args.method or COLUMNS)
        cells = rows.get(architecture.title, row)["cells"] | row["cells"]
        rows[architecture.title] = row | {"cells": {name: cells[name] for name in COLUMNS if name in cells}}
        keep(rows, store)
    tell(wrong(rows))
    print(write(rows, GROUPS, args.docs / "models.md"))


def tell(cells: Sequence[str]) -> None:
    """Name every wrong cell."""
    for cell in cells:
        print(f"WRONG {cell}")


if __name__ == "__main__":
    console.run(main)
