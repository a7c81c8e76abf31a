"""This project against its peers, as ratios measured in one run.

Each case is a file in ``scripts/benchmarks``. A ratio below 1 means that ours is faster; "bound" is what
the project promises. Each row is also written to ``runs/benchmark.csv`` as soon as it is measured. A case that
cannot run costs its own rows only. The exit code is 1 if a case failed or a bound is exceeded.
"""

import csv
import importlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import console

if TYPE_CHECKING:
    from benchmarks.harness import Result

EXIT_NOT_KEPT = 1
COLUMNS = ("case", "what", "peer", "ours_seconds", "peer_seconds", "ratio", "bound", "machine")
CASES = sorted(
    p.stem for p in (Path(__file__).parent / "benchmarks").glob("*.py") if p.stem not in {"__init__", "harness"}
)


def parse() -> "console.argparse.Namespace":
    """The command line."""
    parser = console.ArgumentParser(prog=console.called("benchmark"), description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="CASE", action="append", help=f"one of: {', '.join(CASES)}; may be repeated")
    parser.add_argument(
        "--quick", action="store_true", help="fewer repeats on smaller work: a smoke test, which judges no bound"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where MNIST is, or is downloaded to")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark.csv"), help="where the table goes")
    return parser.parse_args()


def versions() -> str:
    """Machine and library versions, in a line."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} absent"

    import torch

    names = ("torch", "lightning", "captum", "scikit-learn")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return ", ".join([platform.platform(), f"python {platform.python_version()}", *map(installed, names), device])


class Report:
    """The table: a row printed and written at a time, and in the end whether everything was kept.

    Args:
        path: the CSV file, begun anew.
        machine: what it was measured on, in every row.
        judged: whether a ratio over its bound counts.
    """

    def __init__(self, path: Path, machine: str, judged: bool):
        self.path, self.machine, self.judged = path, machine, judged
        self.failed: dict[str, str] = {}
        self.over: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._append(COLUMNS, mode="w")
        print(f"{'case':<14} {'what':<44} {'peer':<34} {'ours':>9} {'peer':>9} {'ratio':>7} {'bound':>6}")

    def add(self, case: str, row: "Result") -> None:
        """A row that was measured."""
        bound = "" if row.bound is None else f"{row.bound:.2f}"
        verdict = {None: "", True: "ok", False: "OVER"}[row.within_bound] if self.judged else ""
        print(
            f"{case:<14} {row.name:<44} {row.peer:<34} {row.ours_seconds:>8.4f}s {row.peer_seconds:>8.4f}s"
            f" {row.ratio:>7.3f} {bound:>6} {verdict}",
            flush=True,
        )
        self._append((case, row.name, row.peer, row.ours_seconds, row.peer_seconds, row.ratio, bound, self.machine))
        if verdict == "OVER":
            self.over.append(f"{case}: {row.name}")

    def fail(self, case: str, error: Exception) -> None:
        """The rest of a case that cannot run."""
        reason = console.shorten(" ".join(str(error).split()) or "no reason given", 300)
        self.failed[case] = f"{type(error).__name__}: {reason}"
        print(f"{case:<14} failed: {self.failed[case]}", flush=True)

    def conclude(self) -> int | None:
        """The last line, which names what failed and what is over its bound; the exit code."""
        if not self.failed and not self.over:
            print(f"{self.path}: every case ran{', every bound is kept' if self.judged else ''}")
            return None
        parts = {"failed": ", ".join(self.failed), "over its bound": "; ".join(self.over)}
        print(f"{self.path}: {'. '.join(f'{what}: {names}' for what, names in parts.items() if names)}")
        return EXIT_NOT_KEPT

    def _append(self, cells: tuple, mode: str = "a") -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(cells)


def rows_of(case: str, quick: bool, data_dir: Path) -> Iterator["Result"]:
    """The rows of the case's own file, as they are measured."""
    yield from importlib.import_module(f"benchmarks.{case}").run(quick, data_dir)


def main() -> int | None:
    """Run the chosen cases; what fails in one leaves the others alone."""
    args = parse()
    for name in args.only or ():
        if name not in CASES:
            raise console.nearest(name, CASES, "case")
    print(machine := versions())
    report = Report(args.output, machine, judged=not args.quick)
    for case in args.only or CASES:
        try:
            for row in rows_of(case, args.quick, args.data_dir):
                report.add(case, row)
        except Exception as error:
            report.fail(case, error)
    return report.conclude()


if __name__ == "__main__":
    console.run(main)
