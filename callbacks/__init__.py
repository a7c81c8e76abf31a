"""Callbacks for anyone's LightningModule: they watch a training run, and never alter or end it unasked."""

from callbacks.diagnostics import WeightDiagnostics
from callbacks.early_stopping import EarlyStopping
from callbacks.epoch_means import EpochMeans
from callbacks.figures import tensorboard_command
from callbacks.random_state import RandomState
from callbacks.regression_plot import RegressionPlot
from callbacks.report import RunReport
from callbacks.run_progress import RunProgress
from callbacks.saliency_snapshots import SaliencySnapshots
from callbacks.test_report import TestReport
from callbacks.tsne.logger import TSNELogger

__all__ = [
    "EarlyStopping",
    "EpochMeans",
    "RandomState",
    "RegressionPlot",
    "RunProgress",
    "RunReport",
    "SaliencySnapshots",
    "TSNELogger",
    "TestReport",
    "WeightDiagnostics",
    "tensorboard_command",
]
