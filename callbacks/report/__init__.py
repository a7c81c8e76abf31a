"""``report.html``: a run in one file that needs nothing else."""

from pathlib import Path

from callbacks.report.run_report import RunReport

CHARTS = Path(__file__).parent / "charts.js"  # for other pages, too

__all__ = ["CHARTS", "RunReport"]
