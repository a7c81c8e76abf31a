"""Adversarial images: attacks, what their noise looks like in numbers, and accuracy under them."""

from interpretability.adversarial.attacks import deepfool, fgsm, pgd
from interpretability.adversarial.ball import quantize
from interpretability.adversarial.counterfactual import counterfactual
from interpretability.adversarial.noise import measure_noise, random_change
from interpretability.adversarial.robustness import robust_accuracy

__all__ = ["counterfactual", "deepfool", "fgsm", "measure_noise", "pgd", "quantize", "random_change", "robust_accuracy"]
