"""Feature visualisation: images that maximise what a unit, a channel, a direction or a class responds to."""

from interpretability.visualization.objectives import Objective, channel, direction, diversity, logit, neuron, odds
from interpretability.visualization.parameterization import PARAMETERIZATIONS, Fourier, Parameterization, Pixels
from interpretability.visualization.regularizers import blur, l1, total_variation
from interpretability.visualization.transforms import Margin, RandomAffine, default_transforms
from interpretability.visualization.visualize import visualize

__all__ = [
    "PARAMETERIZATIONS",
    "Fourier",
    "Margin",
    "Objective",
    "Parameterization",
    "Pixels",
    "RandomAffine",
    "blur",
    "channel",
    "default_transforms",
    "direction",
    "diversity",
    "l1",
    "logit",
    "neuron",
    "odds",
    "total_variation",
    "visualize",
]
