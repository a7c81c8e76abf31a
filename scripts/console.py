"""What every command line shares: errors a user can act on, nearest names, and exit codes.

Imports nothing heavy, so that ``--help`` stays fast.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

import versions

EXIT_DONE, EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 2, 130, 143
MAX_ERROR_LINES = 5
OUT_OF_MEMORY = (
    "not enough memory for this model and these images: take smaller ones or fewer at once, or another device"
    " (explain.py: --size, --device cpu; train.py: --data.batch_size, --trainer.accelerator cpu)"
)
LARGEST = 2**32 - 1  # the largest seed that NumPy accepts


SUBCOMMAND: list[str] = []  # the command that ``backlit`` was asked for; empty where a script was started itself


def words() -> list[str]:
    """What was typed behind the command."""
    return sys.argv[1 + len(SUBCOMMAND) :]


def called(name: str) -> str:
    """How the command ``name`` is called here: ``train.py``, or ``backlit train``."""
    return f"backlit {name}" if SUBCOMMAND else f"{name}.py"


class UserError(Exception):
    """Something the person at the keyboard can put right; the message says what and how."""


def nearest(name: str, known: Iterable[str], what: str) -> UserError:
    """The error for an unknown name: names it, the nearest valid one, or all of them if none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {shorten(', '.join(names), 300)}"
    return UserError(f"unknown {what} {name!r}; {hint}")


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters, with an ellipsis where it was cut."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def report_error(error: BaseException | str) -> None:
    """Print ``error: …`` on stderr, in at most five lines."""
    if isinstance(error, OSError) and error.filename is not None:
        error = f"{os.fsdecode(error.filename)}: {error.strerror}"
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    for index, line in enumerate(lines[:MAX_ERROR_LINES]):
        print(shorten(printable(f"error: {line}" if index == 0 else f"  {line}"), 500), file=sys.stderr)


def printable(text: str) -> str:
    """``text`` on one line, with escapes for what a terminal would obey instead of showing: it may be a file's name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def reworded(message: str) -> str:
    """What argparse says of an option, so that it tells what to give instead."""
    for pattern, words in (
        (r"argument (\S+): invalid int value: (.*)", r"\1 must be a whole number, not \2"),
        (r"argument (\S+): invalid float value: (.*)", r"\1 must be a number, not \2"),
        (r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)", r"\1 must be one of \3, not \2"),
        (r"argument (\S+): expected (?:one|at least one) argument", r"\1 needs a value"),
        (r"argument (\S+): ignored explicit argument .*", r"\1 takes no value"),
        (r"argument (\S+): (.*)", r"\1: \2"),
        (r"the following arguments are required: (.*)", r"\1 must be given; --help shows every option"),
        (r"unrecognized arguments: (\S+).*", r"unexpected word '\1'; --help shows what can be given"),
    ):
        if found := re.fullmatch(pattern, message, re.DOTALL):
            return found.expand(words)
    return message


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Options with their defaults, where they have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with errors of one line instead of a page of usage, and no abbreviated options."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(*args, **kwargs)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> object:
        """As argparse does, which would make an empty list of ``--option=--``."""
        if action.nargs is None and arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "expected one argument")
        return super()._get_values(action, arg_strings)  # type: ignore[misc]

    def _get_value(self, action: argparse.Action, arg_string: str) -> object:
        """As argparse does; whole numbers no larger than a seed may be, for nothing here counts further."""
        value = super()._get_value(action, arg_string)  # type: ignore[misc]
        if action.type is int and abs(value) > LARGEST:
            raise argparse.ArgumentError(action, f"{arg_string} is too large: the most is {LARGEST}")
        return value

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        """As argparse does; by default the words behind the command."""
        return super().parse_args(words() if args is None else args, namespace)

    def error(self, message: str) -> NoReturn:
        """One line, with the nearest option where one was unknown."""
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized") and unknown and unknown[0].startswith("--"):
            message = str(nearest(unknown[0].split("=")[0], self._option_string_actions, "option"))
        report_error(reworded(message))
        sys.exit(EXIT_USER_ERROR)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run ``main`` and exit as every command line here does: 0 done, 2 a user's error, 130 Ctrl-C.

    A ValueError or OSError is taken for a user's error. Set ``BACKLIT_TRACEBACK=1`` to see where it
    came from. Libraries outside the stated range are told first, in a line.
    """
    if not {"-h", "--help"} & set(words()):
        versions.warn()
    try:
        code = main() or EXIT_DONE
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except (UserError, ValueError, OSError, RuntimeError, MemoryError) as error:
        full = _is_out_of_memory(error)
        if os.environ.get("BACKLIT_TRACEBACK") or not (full or isinstance(error, (UserError, ValueError, OSError))):
            raise
        report_error(OUT_OF_MEMORY if full else error)
        code = EXIT_USER_ERROR
    sys.exit(code)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; asked without importing what only a command that computes has imported."""
    devices = sys.modules.get("interpretability.devices")
    return devices is not None and devices.is_out_of_memory(error)
