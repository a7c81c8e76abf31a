"""Explaining what a classifier does: attribution, feature visualisation, building blocks, attacks; no Lightning."""

from interpretability.adversarial import deepfool, fgsm, measure_noise, pgd, quantize, robust_accuracy
from interpretability.visualization import channel, direction, diversity, logit, neuron, odds, visualize

__all__ = [
    "channel",
    "deepfool",
    "direction",
    "diversity",
    "fgsm",
    "logit",
    "measure_noise",
    "neuron",
    "odds",
    "pgd",
    "quantize",
    "robust_accuracy",
    "visualize",
]
