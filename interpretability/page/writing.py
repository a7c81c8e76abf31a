"""A page as a file."""

from pathlib import Path

from interpretability.whole_files import whole_file


def write_page(html: str, path: str | Path) -> Path:
    """Write ``html`` to ``path`` so that it is never half there; makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path
