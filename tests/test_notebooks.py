"""Every notebook runs from top to bottom, and is committed without what it has shown."""

import html
import importlib.util
import json
import os
import re
from pathlib import Path

import pytest

from conftest import missing
from interpretability.page import Page

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_outputs_and_says_how_to_install(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 2 and not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert "pip install -e '.[notebooks]'" in "".join(code[0]["source"])
    assert all(len(line) <= 125 for cell in cells for line in cell["source"])


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    if importlib.util.find_spec("nbclient") is None or importlib.util.find_spec("ipykernel") is None:
        missing("notebooks", "pip install -e '.[notebooks]'")
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("BACKLIT_QUICK", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) or "text/html" in output.get("data", {}) for output in shown)


def test_a_page_shows_itself_in_a_frame(tmp_path):
    path = tmp_path / "page.html"
    path.write_text('<p title="a">&amp; "quoted"</p><script>1 < 2</script>', encoding="utf-8")
    frame = Page(path)._repr_html_()
    assert frame.count("<iframe") == 1 and frame.count("<script") == 0

    assert html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1]) == path.read_text()
