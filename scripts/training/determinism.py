"""The same bits from the same seed on a GPU: the default there, and what is said where an operation cannot."""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from console import UserError

NO_IMPLEMENTATION = re.compile(r"(\S+) does not have a deterministic implementation")
GIVE_UP = "--trainer.deterministic false gives up repeatable runs"


def default_for(accelerator: Any) -> Literal["warn"] | None:
    """What ``--trainer.deterministic`` is where nobody says: deterministic on CUDA; a CPU is so by itself.

    With ``warn`` an operation that has no deterministic implementation runs, and is named.
    """
    return "warn" if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else None


@contextmanager
def exceptions_named() -> Iterator[None]:
    """Name each operation without a deterministic implementation once, in a line.

    Raises:
        UserError: there is one, and the run was asked to be deterministic without exception.
    """
    show, named = warnings.showwarning, set()

    def show_once(message: Any, *where: Any, **more: Any) -> None:
        found = NO_IMPLEMENTATION.match(str(message))
        if found is None:
            return show(message, *where, **more)
        if found[1] not in named:
            named.add(found[1])
            line = f"note: {found[1]} has no deterministic implementation: another run with this seed may differ"
            print(f"{line}; {GIVE_UP} and this note", file=sys.stderr)

    warnings.filterwarnings("always", message=NO_IMPLEMENTATION.pattern)
    warnings.showwarning = show_once
    try:
        yield
    except RuntimeError as error:
        if found := NO_IMPLEMENTATION.match(str(error)):
            raise UserError(f"{found[1]} has no deterministic implementation; {GIVE_UP}, warn lets it run") from error
        raise
    finally:
        warnings.showwarning = show
