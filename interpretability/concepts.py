"""Concepts: directions in a layer that images with something in common lie in, and what a class makes of them.

Kim et al. 2018, "Interpretability beyond feature attribution: quantitative testing with concept activation vectors".
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import ttest_ind_from_stats
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from interpretability.attribution.base import check_input
from interpretability.devices import on_models_device
from interpretability.gradients import gradient_at
from interpretability.layers import check_rows, evaluating, forward_to
from interpretability.targets import Target

ROWS = 64  # in a forward pass


@dataclass(frozen=True)
class ConceptTest:
    """How often a concept speaks for a class, next to random concepts.

    Attributes:
        score: the mean share of samples whose score rises in the concept's direction, over the sets of negatives.
        random: the same of random concepts.
        p_value: of Welch's test that both are alike.
    """

    score: float
    random: float
    p_value: float


@on_models_device
def concept_vector(model: nn.Module, layer: str, positives: Tensor, negatives: Tensor) -> Tensor:
    """The unit normal of the hyperplane in ``layer`` between ``positives`` and ``negatives``, towards the former.

    Of the shape of the layer's output for one sample   eq. 12.1.

    Raises:
        ValueError: no images on a side, NaN or infinite values, or a layer that does not tell the sides apart.
    """
    for x in (positives, negatives):
        check_input(x)
    with evaluating(model), torch.no_grad():
        sides = [_outputs(model, layer, x) for x in (positives, negatives)]
    rows = torch.cat([side.flatten(1) for side in sides]).double().cpu()
    scale = rows.std().clamp(min=torch.finfo(torch.float64).tiny)  # one for all, so that directions stay
    centred = ((rows - rows.mean(dim=0)) / scale).numpy()
    labels = [1] * len(positives) + [0] * len(negatives)
    fitted = LogisticRegression(class_weight="balanced", max_iter=2000).fit(centred, labels)
    normal = torch.from_numpy(fitted.coef_[0])
    if not normal.norm() > 0:
        raise ValueError(f"layer {layer!r} does not tell the concept's images from the others")
    return (normal / normal.norm()).view(sides[0].shape[1:]).to(sides[0])


@on_models_device
def concept_sensitivity(model: nn.Module, layer: str, x: Tensor, target: Target, vector: Tensor) -> Tensor:
    """How much the score rises in the direction of a concept: (N,)   eq. 12.2."""
    check_input(x)
    with evaluating(model):
        activation, gradient = gradient_at(model, layer, x, target)
    if vector.shape != activation.shape[1:]:
        shapes = f"{tuple(vector.shape)}; layer {layer!r} has {tuple(activation.shape[1:])}"
        raise ValueError(f"the concept's vector is {shapes}")
    return (gradient * vector).flatten(1).sum(dim=1)


def concept_test(
    model: nn.Module, layer: str, x: Tensor, target: Target, positives: Tensor, negatives: Sequence[Tensor]
) -> ConceptTest:
    """The share of samples ``x`` that a concept speaks for, tested against random concepts   eq. 12.3.

    Args:
        model: a classifier.
        layer: dotted module name.
        x: samples of the class in question (N, …).
        target: the class.
        positives: images that have the concept, at least one for each set of negatives.
        negatives: three or more sets of random images. Each is set against a part of the positives of its own (with the
            same positives throughout, scores would not be independent, and the test would find random concepts), and,
            as a random concept, against the next set.
    """
    if len(negatives) < 3:
        raise ValueError(f"the test needs at least 3 sets of random images; got {len(negatives)}")

    if len(positives) < len(negatives):
        raise ValueError(f"{len(positives)} images of the concept do not serve {len(negatives)} sets of random images")

    def share(some: Tensor, others: Tensor) -> float:
        vector = concept_vector(model, layer, some, others)
        return float((concept_sensitivity(model, layer, x, target, vector) > 0).double().mean())

    found = [share(some, others) for some, others in zip(positives.tensor_split(len(negatives)), negatives)]
    random = [share(some, others) for some, others in zip(negatives, [*negatives[1:], negatives[0]])]
    (mean, spread), (random_mean, random_spread) = map(_mean_and_spread, (found, random))
    if not spread and not random_spread:  # of which the test knows nothing
        return ConceptTest(mean, random_mean, 1.0 if mean == random_mean else 0.0)
    count = len(negatives)
    test = ttest_ind_from_stats(mean, spread, count, random_mean, random_spread, count, equal_var=False)
    return ConceptTest(mean, random_mean, float(test.pvalue))


def _mean_and_spread(shares: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(shares), statistics.stdev(shares)


def _outputs(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    outputs = []
    for rows in x.split(ROWS):
        outputs.append(forward_to(model, layer, rows))
        check_rows(outputs[-1], layer, len(rows))
    return torch.cat(outputs)
