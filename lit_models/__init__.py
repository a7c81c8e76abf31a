"""The LightningModules and the mathematics under them: formulas, update rules, many networks at once."""

from lit_models.cnn import LitCNN
from lit_models.mlp import LitMLP
from lit_models.optimizers import SGD, Adam, AdamW

__all__ = ["SGD", "Adam", "AdamW", "LitCNN", "LitMLP"]
