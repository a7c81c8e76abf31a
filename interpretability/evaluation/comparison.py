"""All methods by all measures on one batch: the values, their means and intervals, and the table.

The same pixels are deleted, the same squares covered, the same noise added and the same weights randomised for
every method, so that differences between rows are differences between methods.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from interpretability.devices import on_models_device
from interpretability.evaluation import measures, properties
from interpretability.evaluation.randomization import cascade, stage_names
from interpretability.evaluation.road import road
from interpretability.layers import evaluating
from interpretability.targets import Target, resolve_target, target_scores

Kind = Literal["contribution", "gradient", "magnitude"]
Sum = Literal["score", "difference"]


class Measure(NamedTuple):
    """A column of the table."""

    title: str
    better: str  # "↓" or "↑"


MEASURES = {
    "deletion": Measure("deletion", "↓"),
    "insertion": Measure("insertion", "↑"),
    "infidelity": Measure("infidelity", "↓"),
    "sensitivity": Measure("max-sensitivity", "↓"),
    "completeness": Measure("completeness error", "↓"),
    "randomization": Measure("similarity after randomisation", "↓"),
    "road": Measure("ROAD", "↑"),
    "sparseness": Measure("sparseness", "↑"),
    "complexity": Measure("effective complexity", "↓"),
    "pointing": Measure("pointing game", "↑"),
    "energy": Measure("energy inside", "↑"),
}


@dataclass(frozen=True)
class Explainer:
    """A row of the table: how to explain, and how to read what comes back.

    Attributes:
        name: shown in the row.
        explain: (x, target) -> attribution (N, C, H, W), or a map (N, 1, h, w) that is scaled up.
        kind: whether an element is a signed contribution to the score, a gradient, whose contribution is itself
            times the change of the input, or a magnitude without a sign.
        sums_to: what the contributions claim to add up to: the score, its difference from the baseline, or None.
    """

    name: str
    explain: Callable[[Tensor, Target], Tensor]
    kind: Kind
    sums_to: Sum | None = None


@dataclass(frozen=True)
class Settings:
    """How much to measure.

    Attributes:
        baseline: what deleted and covered pixels become, and the methods' baseline.
        n_steps: points on the deletion and insertion curves.
        n_squares: squares covered, one after another, for the infidelity; of a quarter of the image's side.
        n_noises: noisy copies for the max-sensitivity.
        radius: of that noise, uniform in [−radius, radius].
        n_stages: groups of layers that are randomised.
        seed: of everything random here.
    """

    baseline: float = 0.0
    n_steps: int = 20
    n_squares: int = 64
    n_noises: int = 4
    radius: float = 0.02
    n_stages: int = 6
    seed: int = 0

    def __post_init__(self):
        for name in ("n_steps", "n_squares", "n_noises", "n_stages"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not self.radius > 0:
            raise ValueError(f"radius must be positive; got {self.radius}")
        if not math.isfinite(self.baseline):
            raise ValueError(f"baseline must be a finite number; got {self.baseline}")


@dataclass
class Evaluation:
    """What was measured.

    Attributes:
        values: method -> measure -> one value per sample (N,); NaN where the measure does not apply.
        curves: method -> deletion or insertion -> (N, n_steps + 1).
        similarity: method -> (stages, N), the size of the rank correlation with the trained network's maps.
        maps: method -> (1 + stages, H, W), the first sample's map at each stage of the cascade.
        stages: the lowest layer randomised at each stage.
        agreement: the mean rank correlation of the maps of every two methods (M, M), in the order of ``values``.
    """

    values: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    curves: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    similarity: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    stages: list[str] = field(default_factory=list)
    agreement: Tensor | None = None

    def measured(self) -> list[str]:
        """The measures that every method has, in the order of ``MEASURES``."""
        return [name for name in MEASURES if all(name in values for values in self.values.values())]


@on_models_device
def evaluate(
    model: nn.Module,
    explainers: Sequence[Explainer],
    x: Tensor,
    target: Target = None,
    settings: Settings | None = None,
    mask: Tensor | None = None,
) -> Evaluation:
    """Measure every explainer on the batch ``x`` (N, C, H, W); None as target stands for the predicted classes.

    With a boolean ``mask`` (H, W) or (N, H, W) of where the object is, also whether the maps point into it.

    The model comes back as it was.
    """
    settings = settings or Settings()
    with evaluating(model), torch.no_grad():
        target = resolve_target(model(x.clone()), target)
    inside = None if mask is None else _checked_mask(mask, x)
    passes = 1 + settings.n_noises + len(stage_names(model, settings.n_stages))
    with tqdm(total=passes * len(explainers), desc="evaluating", unit="explanation", disable=None) as progress:
        comparison = _Comparison(model, explainers, x, target, settings, progress)
        comparison.measure_faithfulness()
        comparison.measure_properties(inside)
        comparison.measure_sensitivity()
        comparison.measure_randomization()
    return comparison.result


def importance(attribution: Tensor, kind: Kind, size: torch.Size) -> Tensor:
    """One number per pixel: the sum of contributions over channels, else of magnitudes; (N, H, W)."""
    maps = (attribution if kind == "contribution" else attribution.abs()).sum(dim=1, keepdim=True)
    if maps.shape[2:] != size:
        maps = F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
    return maps[:, 0]


def _checked_mask(mask: Tensor, x: Tensor) -> Tensor:
    try:
        return mask.to(x.device).bool().expand(len(x), *x.shape[2:])
    except RuntimeError:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit images {tuple(x.shape)}") from None


class _Comparison:
    """What the measurements of one evaluation share: the explanations of ``x``, random states, progress."""

    def __init__(
        self,
        model: nn.Module,
        explainers: Sequence[Explainer],
        x: Tensor,
        target: Target,
        settings: Settings,
        progress: tqdm,
    ):
        self.model, self.explainers, self.x, self.target = model, explainers, x, target
        self.settings, self.progress = settings, progress
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.baseline = torch.full_like(x, settings.baseline)
        self.original = self.explain(x)
        self.maps = self.maps_of(self.original)
        names = [explainer.name for explainer in explainers]
        self.result = Evaluation({name: {} for name in names}, {name: {} for name in names})

    def explain(self, x: Tensor) -> dict[str, Tensor]:
        """Every explainer's attribution at ``x``."""
        explanations = {}
        for explainer in self.explainers:
            explanations[explainer.name] = explainer.explain(x, self.target)
            self.progress.update()
        return explanations

    def maps_of(self, explanations: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same as one number per pixel."""
        size = self.x.shape[2:]
        return {e.name: importance(explanations[e.name], e.kind, size) for e in self.explainers}

    def measure_faithfulness(self) -> None:
        """Deletion, insertion, infidelity and completeness: does the map foretell the model?"""
        masks, observed, score, difference = self._effects()
        for explainer in self.explainers:
            name, attribution = explainer.name, self.original[explainer.name]
            self.result.curves[name] = self._curves(self.maps[name])
            values = {measure: measures.area(curve) for measure, curve in self.result.curves[name].items()}
            is_gradient = explainer.kind == "gradient"
            effect = (attribution * (self.x - self.baseline)).sum(dim=1) if is_gradient else self.maps[name]
            predicted = torch.einsum("mhw,nhw->mn", masks.to(effect), effect)  # IᵀΦ   eq. 6.3
            values["infidelity"] = measures.infidelity(predicted, observed)
            claimed = {"score": score, "difference": difference, None: torch.full_like(score, torch.nan)}
            values["completeness"] = measures.completeness_error(attribution, claimed[explainer.sums_to])
            self.result.values[name].update(values)

    def _effects(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Square masks and what covering each takes from the score; the score, and its difference to the baseline."""
        height, width = self.x.shape[2:]
        side = max(height, width) // 4
        masks = measures.square_masks((height, width), side, self.settings.n_squares, self.generator)
        covered = measures.perturbed_scores(self.model, self.x, self.target, masks, self.baseline)
        with evaluating(self.model), torch.no_grad():
            score = target_scores(self.model(self.x.clone()), self.target)
            base = target_scores(self.model(self.baseline.clone()), self.target)
        return masks, score - covered, score, score - base

    def _curves(self, maps: Tensor) -> dict[str, Tensor]:
        order = measures.ranks(maps, torch.Generator().manual_seed(self.settings.seed))
        return {
            measure: measures.perturbation_curve(
                self.model,
                self.x,
                self.target,
                order,
                baseline=self.baseline,
                n_steps=self.settings.n_steps,
                insertion=measure == "insertion",
            )
            for measure in ("deletion", "insertion")
        }

    def measure_properties(self, mask: Tensor | None) -> None:
        """ROAD, sparseness, complexity, agreement, and with a ``mask`` (N, H, W) where the maps point."""
        for name, maps in self.maps.items():
            order = measures.ranks(maps, torch.Generator().manual_seed(self.settings.seed))
            values = {
                "road": road(self.model, self.x, self.target, order, self.settings.seed),
                "sparseness": properties.sparseness(maps),
                "complexity": properties.effective_complexity(self.result.curves[name]["insertion"]),
            }
            if mask is not None:
                values |= {"pointing": properties.pointing(maps, mask), "energy": properties.energy(maps, mask)}
            self.result.values[name].update(values)
        self.result.agreement = properties.agreement(self.maps)

    def measure_sensitivity(self) -> None:
        """The largest change of each attribution under small noise."""
        for _ in range(self.settings.n_noises):
            noise = 2 * torch.rand(self.x.shape, generator=self.generator).to(self.x) - 1
            for name, noisy in self.explain(self.x + self.settings.radius * noise).items():
                change = measures.relative_change(self.original[name], noisy)
                worst = self.result.values[name].get("sensitivity", change)
                self.result.values[name]["sensitivity"] = torch.maximum(worst, change)

    def measure_randomization(self) -> None:
        """How alike the maps stay while the network forgets."""
        stages, similarity = [self.maps], []
        with cascade(self.model, self.settings.n_stages, self.settings.seed) as steps:
            for name in steps:
                self.result.stages.append(name)
                stages.append(self.maps_of(self.explain(self.x)))
                similarity.append({n: measures.rank_correlation(m, stages[-1][n]).abs() for n, m in self.maps.items()})
        for method in self.maps:
            self.result.similarity[method] = torch.stack([found[method] for found in similarity])
            self.result.values[method]["randomization"] = similarity[-1][method]
            self.result.maps[method] = torch.stack([maps[method][0] for maps in stages])
