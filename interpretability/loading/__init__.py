"""Loading anyone's classifier, with its images' preparation and its classes' names."""

from interpretability.loading.model import LoadedModel, checkpoint_of, load_model

__all__ = ["LoadedModel", "checkpoint_of", "load_model"]
