"""``backlit COMMAND …``: the command lines of ``scripts/``, installed with the packages and run from any folder."""

import importlib
import sys
from pathlib import Path
from typing import NoReturn

COMMANDS = {
    "train": "train an experiment, watch it in TensorBoard, test its best checkpoint",
    "evaluate": "repeat the test stage of a finished run",
    "regression": "every regulariser on the eleven points: a picture and a table",
    "tune": "search an experiment's settings systematically",
    "explain": "what a model sees and why it decides: saliency, evaluate, features, attack, page",
    "benchmark": "this project against its peers, as ratios measured in one run",
}


def usage() -> str:
    """The page that ``--help`` shows."""
    commands = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    return f"usage: backlit COMMAND …\n\n{commands}\n\nbacklit COMMAND --help shows its options.\n"


def main() -> NoReturn:
    """Run the command that the first word names, as ``python scripts/COMMAND.py`` would."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    console = importlib.import_module("console")
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        console.SUBCOMMAND.append(name)
        console.run(importlib.import_module(name).main)
    if name in ("", "-h", "--help"):
        print(usage(), end="")
        sys.exit(console.EXIT_DONE if name else console.EXIT_USER_ERROR)
    console.report_error(console.nearest(name, COMMANDS, "command"))
    sys.exit(console.EXIT_USER_ERROR)
