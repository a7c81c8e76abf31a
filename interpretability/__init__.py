"""Explaining what a classifier does: attribution, feature visualisation, building blocks, attacks; no Lightning."""

from interpretability.adversarial import deepfool, fgsm, measure_noise, pgd, quantize, robust_accuracy
from interpretability.attribution import (
    LRP,
    METHODS,
    Attribution,
    Deconvolution,
    DeepLift,
    GradCAM,
    GradCAMPlusPlus,
    GuidedBackprop,
    GuidedGradCAM,
    InputXGradient,
    IntegratedGradients,
    LayerConductance,
    Occlusion,
    Saliency,
    ScoreCAM,
    SmoothGrad,
    VarGrad,
)
from interpretability.gradients import input_gradient, layer_gradient
from interpretability.loading import LoadedModel, load_model
from interpretability.pixel_model import PixelModel
from interpretability.visualization import channel, direction, diversity, logit, neuron, odds, visualize

__all__ = [
    "LRP",
    "METHODS",
    "Attribution",
    "Deconvolution",
    "DeepLift",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedBackprop",
    "GuidedGradCAM",
    "InputXGradient",
    "IntegratedGradients",
    "LayerConductance",
    "LoadedModel",
    "Occlusion",
    "PixelModel",
    "Saliency",
    "ScoreCAM",
    "SmoothGrad",
    "VarGrad",
    "channel",
    "deepfool",
    "direction",
    "diversity",
    "fgsm",
    "input_gradient",
    "layer_gradient",
    "load_model",
    "logit",
    "measure_noise",
    "neuron",
    "odds",
    "pgd",
    "quantize",
    "robust_accuracy",
    "visualize",
]
