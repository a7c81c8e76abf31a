"""Whether an explanation explains: measures, the randomisation check, and all methods in one table."""

from interpretability.evaluation.comparison import MEASURES, Evaluation, Explainer, Settings, evaluate
from interpretability.evaluation.explainers import NAMES, RANDOM, explainers
from interpretability.evaluation.measures import (
    area,
    completeness_error,
    infidelity,
    perturbation_curve,
    rank_correlation,
    relative_change,
)
from interpretability.evaluation.pictures import agreement_figure, measures_figure, randomization_figure
from interpretability.evaluation.properties import agreement, effective_complexity, energy, pointing, sparseness
from interpretability.evaluation.randomization import cascade
from interpretability.evaluation.ranking import Ranked, ranking, ranking_table, verdict
from interpretability.evaluation.road import imputed, road
from interpretability.evaluation.table import Interval, interval, table, write_csv

__all__ = [
    "MEASURES",
    "NAMES",
    "RANDOM",
    "Evaluation",
    "Explainer",
    "Interval",
    "Ranked",
    "Settings",
    "agreement",
    "agreement_figure",
    "area",
    "cascade",
    "completeness_error",
    "effective_complexity",
    "energy",
    "evaluate",
    "explainers",
    "imputed",
    "infidelity",
    "interval",
    "measures_figure",
    "perturbation_curve",
    "pointing",
    "randomization_figure",
    "rank_correlation",
    "ranking",
    "ranking_table",
    "relative_change",
    "road",
    "sparseness",
    "table",
    "verdict",
    "write_csv",
]
