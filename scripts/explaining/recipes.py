"""How to visualise features so that a person recognises them: found by looking at the results."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interpretability.visualization import Margin
    from interpretability.visualization.regularizers import Regularizer
    from interpretability.visualization.transforms import Transform

PENALTIES = ("total_variation", "l1", "blur")
NAMES = {"total_variation": "total variation", "l1": "L1"}


@dataclass(frozen=True)
class Recipe:
    """A parameterisation, random views and the weights of penalties by name, for images of some kind.

    ``ink``: the images are light ink on black, as digits are; scenes otherwise.
    """

    ink: bool
    parameterization: str = "fourier"
    viewed: bool = True
    weights: Mapping[str, float] | None = None

    def margin(self, side: int) -> "Margin":
        """What stays black around ink: 4 of 28 pixels, as in MNIST."""
        from interpretability.visualization import Margin

        return Margin(side // 7 if self.ink else 0)

    def transforms(self, height: int, width: int) -> tuple["Transform", ...]:
        """What the ascent sees images of that size through."""
        from interpretability.visualization import RandomAffine, default_transforms

        views: tuple[Transform, ...] = ()
        if self.viewed and self.ink:
            views = (RandomAffine(height / 9, (0.8, 1.2), 15.0, black=True),)
        elif self.viewed:
            views = default_transforms(height, width)
        return (self.margin(height), *views)

    def regularizers(self) -> tuple["Regularizer", ...]:
        """The penalties that have a weight."""
        from interpretability.visualization import blur, l1, total_variation

        background = 0.0 if self.ink else 0.5
        makers = {"total_variation": total_variation, "l1": lambda weight: l1(weight, background), "blur": blur}
        return tuple(makers[name](weight) for name, weight in (self.weights or {}).items() if weight)


def default_weights(ink: bool) -> dict[str, float]:
    """What the penalties weigh: ink needs to be told to stay thin, scenes need nothing beside the views.

    Small enough for a network of smoothed labels, whose log-odds rise by a few units only.
    """
    return dict.fromkeys(PENALTIES, 0.0) | ({"total_variation": 0.01, "l1": 0.005} if ink else {})


def ablation(ink: bool) -> dict[str, Recipe]:
    """Title -> recipe: each regulariser alone on plain pixels, then the default."""
    alone = {"total_variation": 0.03, "l1": 0.03, "blur": 1.0} if ink else ALONE_IN_SCENES
    columns = {"pixels,\nnothing else": Recipe(ink, "pixel", viewed=False)}
    for name, weight in alone.items():
        columns[f"pixels +\n{NAMES.get(name, name)}"] = Recipe(ink, "pixel", viewed=False, weights={name: weight})
    columns["pixels +\nrandom views"] = Recipe(ink, "pixel")
    columns["Fourier,\nnothing else"] = Recipe(ink, viewed=False)
    columns["the default"] = Recipe(ink, weights=default_weights(ink))
    return columns


ALONE_IN_SCENES = {"total_variation": 0.01, "l1": 0.01, "blur": 0.3}
