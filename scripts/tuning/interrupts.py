"""Ctrl-C and SIGTERM as a question that is answered between two steps; a second Ctrl-C stops at once."""

import signal
from typing import Any

from console import EXIT_INTERRUPTED, EXIT_TERMINATED


class Interrupts:
    """While this context is open, ``asked`` is the signal that came, or 0."""

    def __init__(self) -> None:
        self.asked = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _note(self, signum: int, frame: Any) -> None:
        if self.asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signum

    @property
    def exit_code(self) -> int:
        """That of the signal."""
        return EXIT_TERMINATED if self.asked == signal.SIGTERM else EXIT_INTERRUPTED
