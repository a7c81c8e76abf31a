"""A template with its style, its scripts and its data as one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

HERE = Path(__file__).parent
BASE_STYLE, BASE_SCRIPT = HERE / "page.css", HERE / "data.js"


def render_page(template: Path, data: Mapping[str, Any], scripts: Sequence[Path], styles: Sequence[Path] = ()) -> str:
    """The page as HTML; text in ``data`` is escaped whatever it holds.

    Args:
        template: gets ``data``, ``style`` and ``script``, and puts ``data`` where the base script looks for it.
        data: what ``tojson`` can write.
        scripts: files, in order, behind the base script with its helpers (``page``, ``unpack``, ``el`` …).
        styles: files behind the base style sheet.
    """
    loader = jinja2.FileSystemLoader(template.parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    style = "\n".join(path.read_text(encoding="utf-8") for path in (BASE_STYLE, *styles))
    script = "\n".join(path.read_text(encoding="utf-8") for path in (BASE_SCRIPT, *scripts))
    return environment.get_template(template.name).render(data=data, style=style, script=script)
