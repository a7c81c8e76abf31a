"""``report.html``: a run in one file that needs nothing else."""

from callbacks.report.run_report import RunReport

__all__ = ["RunReport"]
