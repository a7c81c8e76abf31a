"""The sampler: Optuna's TPE, seeded for each trial by its number."""

from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class SeededTPE(BaseSampler):
    """Tree-structured Parzen estimators (Bergstra et al. 2011) whose suggestion is a function of the study.

    What trial n is given depends on (seed, n) and on the finished trials, on nothing else: a study that is stopped
    and started again goes on with new suggestions, and processes that share one never draw the same.

    Args:
        seed: the study's seed.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._tpe = TPESampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """A generator of this trial's own."""
        state = np.random.SeedSequence([self.seed, trial.number]).generate_state(1)
        self._tpe = TPESampler(seed=int(state[0]))
        self._tpe.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """TPE's."""
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """TPE's."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """TPE's."""
        return self._tpe.sample_independent(study, trial, name, distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """TPE's."""
        self._tpe.after_trial(study, trial, state, values)
