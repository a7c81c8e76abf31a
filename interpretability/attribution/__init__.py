"""Attribution methods, one file per family, all called as ``Method(model, layer, **options)(x, target)``."""

from interpretability.attribution.base import Attribution
from interpretability.attribution.gradient import InputXGradient, Saliency

METHODS: dict[str, type[Attribution]] = {method.__name__: method for method in (Saliency, InputXGradient)}

__all__ = ["METHODS", *METHODS, "Attribution"]
