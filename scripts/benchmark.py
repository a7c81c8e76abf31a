"""This project against its peers, as ratios measured in one run.

Each case is a file in ``scripts/benchmarks``. A ratio below 1 means that ours is faster; "bound" is what
the project promises. The table is also written to ``runs/benchmark.csv``.
"""

import csv
import importlib
import platform
import sys
from pathlib import Path

import console

CASES = sorted(
    p.stem for p in (Path(__file__).parent / "benchmarks").glob("*.py") if p.stem not in {"__init__", "harness"}
)


def parse() -> "console.argparse.Namespace":
    """The command line."""
    parser = console.ArgumentParser(prog="benchmark.py", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="CASE", action="append", help=f"one of: {', '.join(CASES)}; may be repeated")
    parser.add_argument(
        "--quick", action="store_true", help="fewer repeats on smaller work: a smoke test, not a measurement"
    )
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


def main() -> None:
    """Run the chosen cases, print each row as it comes, and write the CSV."""
    args = parse()
    for name in args.only or ():
        if name not in CASES:
            raise console.nearest(name, CASES, "case")
    chosen = args.only or CASES
    print(machine := versions())
    print(f"{'case':<14} {'what':<44} {'peer':<34} {'ours':>9} {'peer':>9} {'ratio':>7} {'bound':>6}")
    rows = []
    for case in chosen:
        for result in importlib.import_module(f"benchmarks.{case}").run(args.quick):
            bound = "" if result.bound is None else f"{result.bound:.2f}"
            verdict = {None: "", True: "ok", False: "OVER"}[result.within_bound]
            print(
                f"{case:<14} {result.name:<44} {result.peer:<34} {result.ours_seconds:>8.4f}s"
                f" {result.peer_seconds:>8.4f}s {result.ratio:>7.3f} {bound:>6} {verdict}",
                flush=True,
            )
            rows.append(
                [case, result.name, result.peer, result.ours_seconds, result.peer_seconds, result.ratio, bound, machine]
            )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "what", "peer", "ours_seconds", "peer_seconds", "ratio", "bound", "machine"])
        writer.writerows(rows)
    print(f"written to {args.output}", file=sys.stderr)


if __name__ == "__main__":
    console.run(main)
