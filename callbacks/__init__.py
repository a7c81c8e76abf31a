"""Callbacks for anyone's LightningModule: they watch a training run, and never alter or end it unasked."""

from callbacks.early_stopping import EarlyStopping
from callbacks.figures import tensorboard_command
from callbacks.regression_plot import RegressionPlot
from callbacks.test_report import TestReport

__all__ = ["EarlyStopping", "RegressionPlot", "TestReport", "tensorboard_command"]
