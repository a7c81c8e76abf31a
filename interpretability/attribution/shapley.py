"""Shapley values by sampling and by regression, and the local linear surrogate."""

from math import comb

import numpy as np
import torch
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor, nn

from interpretability.attribution.coalitions import Game, SampledMethod
from interpretability.attribution.segments import Segments

WIDE = 4096  # players, beyond which a fit goes by the coalitions' products with one another
COLUMNS = 2048  # players at a time in those products


class ShapleySampling(SampledMethod):
    """The mean of what a player adds when all join in a random order   eq. 11.3, 11.4.

    Castro, Gómez, Tejada 2009, "Polynomial calculation of the Shapley value based on sampling". Sums to
    score(x) − score(baseline) exactly. Each of the ``n_samples`` orders, 25 by default, costs a forward pass a player.
    Takes what :class:`SampledMethod` takes.
    """

    default_samples = 25

    def values(self, game: Game) -> Tensor:
        """One walk from the baseline to the sample per order."""
        players, generator = game.players, self.generator()
        orders = torch.stack([torch.randperm(players, generator=generator) for _ in range(self.n_samples)])
        places = orders.argsort(dim=1)  # when each player joins
        nobody, everybody = game.ends()
        inner = players - 1

        def joined(start: int, stop: int) -> Tensor:
            rows = torch.arange(start, stop)
            return places[rows // inner] <= (rows % inner)[:, None]

        walked = game.play(self.n_samples * inner, joined) if inner else nobody.new_empty(0, len(nobody))
        walks = walked.view(self.n_samples, inner, len(nobody))
        first, last = (end.expand(self.n_samples, 1, -1) for end in (nobody, everybody))
        added = torch.cat([first, walks, last], dim=1).diff(dim=1)  # (orders, players, N), as they joined
        index = places[:, :, None].expand(-1, -1, added.shape[2]).to(added.device)
        return added.gather(1, index).mean(dim=0).T


class KernelShap(SampledMethod):
    """Shapley values as the weighted least-squares fit of a linear game   eq. 11.5, 11.6.

    Lundberg and Lee 2017, "A unified approach to interpreting model predictions", theorem 2. Sums to
    score(x) − score(baseline) exactly; all coalitions are asked if there are at most ``n_samples`` (512 by default),
    and the result is exact; else pairs of a coalition and its complement are drawn. With fewer samples than players
    it is the fit of least norm. Takes what :class:`SampledMethod` takes.
    """

    def values(self, game: Game) -> Tensor:
        """One fit for all samples of the game."""
        players = game.players
        nobody, everybody = game.ends()
        difference = everybody - nobody
        if players == 1:
            return difference[:, None]
        if players < 63 and 2**players - 2 <= self.n_samples:
            coalitions, weights = all_coalitions(players)
        else:
            coalitions = paired_coalitions(players, self.n_samples, self.generator())
            weights = torch.ones(len(coalitions), dtype=torch.float64)
        observed = game.play(len(coalitions), lambda start, stop: coalitions[start:stop])
        share = coalitions.double().mean(dim=1, keepdim=True).to(observed)  # |z| / players
        rest = (observed - nobody - share * difference).cpu().numpy()
        fitted = fit(coalitions.numpy(), share.cpu().numpy(), rest, weights.numpy(), 0.0)
        return torch.from_numpy(fitted).to(difference) + difference[:, None] / players


class Lime(SampledMethod):
    """The weights of a linear model of the score near the sample, fitted by ridge regression   eq. 11.7.

    Ribeiro, Singh, Guestrin 2016, "Why should I trust you?", section 3.4 and the authors' program: segments are kept
    with probability 1/2, coalitions weigh less the more is missing. Does not sum to anything.

    Args:
        model, layer, n_samples, baseline, segments, seed, batch_size: see :class:`SampledMethod`.
        kernel_width: of the weights, in cosine distance.
        alpha: of the ridge regression.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        n_samples: int | None = None,
        baseline: float | Tensor = 0.0,
        segments: Segments = None,
        seed: int = 0,
        batch_size: int | None = None,
        kernel_width: float = 0.25,
        alpha: float = 1.0,
    ):
        super().__init__(model, layer, n_samples, baseline, segments, seed, batch_size)
        for name, value in (("kernel_width", kernel_width), ("alpha", alpha)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number; got {value}")
        self.kernel_width, self.alpha = kernel_width, alpha

    def values(self, game: Game) -> Tensor:
        """One fit for all samples of the game."""
        generator = self.generator()
        drawn = [torch.rand(game.players, generator=generator) < 0.5 for _ in range(self.n_samples - 1)]
        coalitions = torch.stack([torch.ones(game.players, dtype=torch.bool), *drawn])
        observed = game.play(len(coalitions), lambda start, stop: coalitions[start:stop])
        distance = 1 - coalitions.double().mean(dim=1).sqrt()
        weights = (-(distance**2) / (2 * self.kernel_width**2)).exp().numpy()
        y = observed.cpu().numpy()
        mean = _weighted_mean(coalitions.numpy(), weights)
        fitted = fit(coalitions.numpy(), mean, y - (weights @ y) / weights.sum(), weights, self.alpha)
        return torch.from_numpy(fitted).to(observed)


def all_coalitions(players: int) -> tuple[Tensor, Tensor]:
    """Every coalition but nobody and all, bool (2ᴾ − 2, P), and its Shapley kernel   eq. 11.5."""
    numbers = torch.arange(1, 2**players - 1)
    coalitions = (numbers[:, None] >> torch.arange(players)) & 1 == 1
    kernel = [0.0, *((players - 1) / (comb(players, s) * s * (players - s)) for s in range(1, players))]
    return coalitions, torch.tensor(kernel, dtype=torch.float64)[coalitions.sum(dim=1)]


def paired_coalitions(players: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` coalitions as the Shapley kernel draws them, each followed by its complement: bool (count, P)."""
    sizes = torch.arange(1, players, dtype=torch.float64)
    drawn = torch.multinomial(1 / (sizes * (players - sizes)), -(-count // 2), replacement=True, generator=generator)
    coalitions = torch.zeros(2 * len(drawn), players, dtype=torch.bool)
    for n, size in enumerate((drawn + 1).tolist()):
        coalitions[2 * n, torch.randperm(players, generator=generator)[:size]] = True
        coalitions[2 * n + 1] = ~coalitions[2 * n]
    return coalitions[:count]


def fit(coalitions: np.ndarray, centre: np.ndarray, y: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """Argmin Σ w ‖y − (z − centre) φ‖² + α ‖φ‖², of least norm where α is 0: (K, P), (K, N) -> φ (N, P).

    Of many players the fit is (z − centre)ᵀ of something as long as there are coalitions, and no float copy of the
    coalitions is made.
    """
    if coalitions.shape[1] <= WIDE:
        model = Ridge(alpha=alpha, fit_intercept=False) if alpha else LinearRegression(fit_intercept=False)
        return np.atleast_2d(model.fit(coalitions - centre, y, sample_weight=weights).coef_)
    root = np.sqrt(weights)[:, None]
    products = np.zeros((len(y), len(y)))
    for some in _columns(coalitions.shape[1]):
        rows = root * _centred(coalitions, centre, some)
        products += rows @ rows.T
    products[np.diag_indices_from(products)] += alpha
    dual = root * np.linalg.lstsq(products, root * y, rcond=1e-12)[0]  # (K, N)
    return np.hstack([dual.T @ _centred(coalitions, centre, some) for some in _columns(coalitions.shape[1])])


def _columns(players: int) -> list[slice]:
    return [slice(start, start + COLUMNS) for start in range(0, players, COLUMNS)]


def _centred(coalitions: np.ndarray, centre: np.ndarray, some: slice) -> np.ndarray:
    return coalitions[:, some] - (centre[:, some] if centre.shape[1] > 1 else centre)


def _weighted_mean(coalitions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How often each player is there, (1, P)."""
    shares = [weights @ coalitions[:, some] for some in _columns(coalitions.shape[1])]
    return np.concatenate(shares)[None] / weights.sum()
