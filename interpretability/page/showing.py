"""A written page inside a notebook."""

import html
from pathlib import Path


class Page:
    """A self-contained HTML file that shows itself in a frame where a notebook displays it.

    Args:
        path: the file.
        height: of the frame, in pixels.
    """

    def __init__(self, path: str | Path, height: int = 720):
        self.path, self.height = Path(path), height

    def __repr__(self) -> str:
        return f"Page({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """The frame with the whole page in it, so that the notebook can be moved."""
        content = html.escape(self.path.read_text(encoding="utf-8"))
        return (
            f'<iframe srcdoc="{content}" sandbox="allow-scripts" title="{html.escape(self.path.name)}" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )
