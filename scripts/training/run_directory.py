"""``runs/<experiment>/<version>``: one folder a run, never shared by two."""

import csv
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning import LightningModule
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from console import UserError, shorten
from interpretability.plain_files import load_plain
from interpretability.whole_files import whole_file

CHECKPOINT_KEYS = {"state_dict": dict, "epoch": int, "global_step": int, "pytorch-lightning_version": str}
BUILDER = "lightning.pytorch.cli.instantiate_module"
RUN_DIRECTORY = "BACKLIT_RUN_DIRECTORY"  # how the processes that a run starts learn its folder


def new_run_directory(root: Path, experiment: str) -> Path:
    """Make ``root/runs/<experiment>/<date>_<time>``, with a number behind it where that is taken.

    Other ranks of the same run get the folder that the first one made. Where something else than this program
    started them (torchrun), they get a name that stands for it, for they write nothing.
    """
    if RUN_DIRECTORY in os.environ:
        return Path(os.environ[RUN_DIRECTORY])
    parent = root / "runs" / experiment
    if rank_zero_only.rank:
        return parent / "of the first rank"
    parent.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    attempt = 1
    while True:
        folder = parent / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            attempt += 1
        else:
            os.environ[RUN_DIRECTORY] = str(folder.resolve())
            return folder


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a run's checkpoint holds, on the CPU; UserError where the file is damaged or something else."""
    try:
        checkpoint = load_plain(path)
    except ValueError as error:
        raise UserError(f"{error}. Is there another one in {path.parent}?") from None
    for name, kind in CHECKPOINT_KEYS.items():
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(name), kind):
            raise UserError(f"{path} is not a whole checkpoint: one holds {', '.join(CHECKPOINT_KEYS)}")
    settings = checkpoint.get("hyper_parameters")
    builder = settings.get("_instantiator", BUILDER) if isinstance(settings, dict) else BUILDER
    if builder != BUILDER:
        builder = shorten(str(builder), 60)
        raise UserError(f"{path} asks to be built by {builder}, not by Lightning; nothing in it was run")
    return checkpoint


def check_fits(path: Path, model: LightningModule) -> None:
    """Raise UserError where the checkpoint's weights are not this model's, by name or by shape."""
    stored, wanted = read_checkpoint(path)["state_dict"], model.state_dict()
    shapes = [{name: getattr(value, "shape", None) for name, value in weights.items()} for weights in (stored, wanted)]
    names = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
    if names and model.strict_loading:
        raise UserError(f"{path} does not fit {type(model).__name__}: {shorten(', '.join(names), 120)}")


class MetricsFile(Logger):
    """``metrics.csv``: a row for each time something was logged, a column a metric, complete at every moment.

    The table is written anew to a temporary name and renamed. A resumed run keeps the rows before its first step.

    Args:
        folder: the run's directory.
        every_n_rows: how many new rows are gathered before the file is written again.
    """

    def __init__(self, folder: Path, every_n_rows: int = 50):
        super().__init__()
        self.path, self.every_n_rows = folder / "metrics.csv", every_n_rows
        self.rows: list[dict[str, Any]] | None = None
        self.unsaved = 0

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def version(self) -> str:
        """The run's folder."""
        return self.path.parent.name

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Hyper-parameters are in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row; metrics of the same step share one."""
        if self.rows is None:
            self.rows = [row for row in self._stored() if step is None or int(row["step"]) < step]
        if self.rows and self.rows[-1]["step"] == step and not self.rows[-1].keys() & metrics.keys() - {"epoch"}:
            self.rows[-1].update(metrics)
        else:
            self.rows.append({"step": step, **metrics})
            self.unsaved += 1
        if self.unsaved >= self.every_n_rows:
            self.save()

    def _stored(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        try:
            rows = list(csv.DictReader(self.path.read_text(encoding="utf-8").splitlines()))
        except (UnicodeDecodeError, csv.Error):
            rows = [{}]
        if not all((row.get("step") or "").isdigit() for row in rows):
            raise UserError(f"{self.path} is no table of a run: not every row has a step; move it away to go on")
        return rows

    @rank_zero_only
    def save(self) -> None:
        """Write the table."""
        if not self.rows:
            return
        columns = list(dict.fromkeys(["epoch", "step", *sorted({key for row in self.rows for key in row})]))
        with whole_file(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        self.unsaved = 0

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()
