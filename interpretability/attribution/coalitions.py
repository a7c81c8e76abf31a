"""The game whose players are segments of an input: what the score is when only some of them are there."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interpretability.attribution.base import Attribution
from interpretability.attribution.batches import at_least, checked_batch_size, in_batches, stacked
from interpretability.attribution.integrated import expanded
from interpretability.attribution.segments import Segments, label_maps
from interpretability.layers import capture, check_rows, forward_from, separates
from interpretability.targets import Target, repeat_target, resolve_target, target_scores

Coalitions = Callable[[int, int], Tensor]  # (start, stop) -> bool (stop − start, players)


@dataclass
class Game:
    """v(z): the scores of samples with the players of z at their own values, all others at the baseline   eq. 11.1."""

    model: nn.Module
    layer: str | None
    x: Tensor
    point: Tensor
    baseline: Tensor
    target: Target
    labels: Tensor  # (E,) of 0 … players − 1
    alone: bool
    batch_size: int | None
    name: str

    @property
    def players(self) -> int:
        """How many there are."""
        return int(self.labels.max()) + 1

    def play(self, total: int, coalitions: Coalitions) -> Tensor:
        """V of ``total`` coalitions, made a few at a time: (total, N), float64."""

        def values(chosen: slice) -> Tensor:
            k = chosen.stop - chosen.start
            there = coalitions(chosen.start, chosen.stop).to(self.point.device)[:, self.labels]
            points = torch.where(there.view(k, 1, *self.point.shape[1:]), self.point, self.baseline).flatten(0, 1)
            seen = self.x[:1] if self.alone else stacked(self.x, k)
            logits = forward_from(self.model, self.layer, points, seen)
            return target_scores(logits, repeat_target(self.target, k)).view(k, -1).double()

        return torch.cat(list(in_batches(total, self.x, self.batch_size, self.name, values)))

    def ends(self) -> tuple[Tensor, Tensor]:
        """V of nobody and of all, (N,) each."""
        both = torch.tensor([[False], [True]]).expand(2, self.players)
        nobody, everybody = self.play(2, lambda start, stop: both[start:stop])
        return nobody, everybody


class CoalitionMethod(Attribution):
    """What methods share that ask a model about coalitions of segments. A segment's value is spread evenly over it.

    Args:
        model: see :class:`Attribution`.
        layer: see :class:`Attribution`.
        baseline: what an absent element becomes, a number or a tensor that broadcasts to a sample.
        segments: None for every element as a player, a number of superpixels of each image (needs scikit-image), a
            label map that broadcasts to a sample or, as (N, 1, H, W), to the batch, or a function that makes one.
        batch_size: rows in a forward pass; by default as many as run fastest.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        baseline: float | Tensor = 0.0,
        segments: Segments = None,
        batch_size: int | None = None,
    ):
        super().__init__(model, layer)
        self.baseline, self.segments = baseline, segments
        self.batch_size = checked_batch_size(batch_size)

    @torch.no_grad()
    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """Forward passes only, in batches; sample by sample where each has its own segments."""
        with capture(self.model, [] if self.layer is None else [self.layer]) as outputs:
            logits = self.model(x.clone())
        target = resolve_target(logits, target)
        target_scores(logits, target)
        point = x if self.layer is None else outputs[self.layer]
        check_rows(point, self.layer, len(x))
        alone = self.layer is None or separates(self.model, self.layer, x, point, logits)
        baseline = expanded(torch.as_tensor(self.baseline, dtype=point.dtype, device=point.device), point)
        maps = label_maps(self.segments, point)
        found = []
        for n, labels in enumerate(maps):
            rows = slice(n, n + 1) if len(maps) > 1 else slice(None)
            names, labels = labels.unique(return_inverse=True)
            chosen = target[rows] if isinstance(target, Tensor) else target
            given = (x[rows], point[rows], baseline[rows], chosen, labels, alone)
            game = Game(self.model, self.layer, *given, self.batch_size, type(self).__name__)
            shares = self.values(game).to(point) / labels.bincount(minlength=len(names))  # (N, players)
            found.append(shares[:, labels])
        return torch.cat(found).view_as(point)

    @abstractmethod
    def values(self, game: Game) -> Tensor:
        """What each player is worth: (N, players)."""


class FeatureAblation(CoalitionMethod):
    """What the score loses when one segment is at the baseline   eq. 11.2. Of each of them, one forward pass.

    Zeiler and Fergus 2014 for windows, see :class:`Occlusion`; here of any segments. Takes what
    :class:`CoalitionMethod` takes.
    """

    def values(self, game: Game) -> Tensor:
        """v(all) − v(all but one)."""
        players = torch.arange(game.players)
        without = game.play(game.players, lambda start, stop: players != players[start:stop, None])
        return (game.ends()[1] - without).T


class SampledMethod(CoalitionMethod):
    """A :class:`CoalitionMethod` that draws coalitions at random.

    Args:
        model, layer, baseline, segments, batch_size: see :class:`CoalitionMethod`.
        n_samples: how many are drawn.
        seed: of the draws, which are the same for every sample of a batch and touch no global random state.
    """

    default_samples = 512

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        n_samples: int | None = None,
        baseline: float | Tensor = 0.0,
        segments: Segments = None,
        seed: int = 0,
        batch_size: int | None = None,
    ):
        super().__init__(model, layer, baseline, segments, batch_size)
        self.n_samples = self.default_samples if n_samples is None else at_least("n_samples", n_samples, 1)
        self.seed = seed

    def generator(self) -> torch.Generator:
        """A fresh one, so that the same call gives the same result."""
        return torch.Generator().manual_seed(self.seed)
