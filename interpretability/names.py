"""Messages for unknown names: every error says which names are valid."""

import difflib
from collections.abc import Iterable

SHOWN = 400  # characters of valid names in a message


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for an unknown ``name``: the nearest valid names first, then as many others as fit in a line."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return ValueError(f"unknown {what} {name!r}; {hint}valid: {listing(names)}")


def listing(names: Iterable[str], shown: int = SHOWN) -> str:
    """``names`` separated by commas, cut to ``shown`` characters."""
    text = ", ".join(names)
    return text if len(text) <= shown else text[:shown].rsplit(",", 1)[0] + ", …"
