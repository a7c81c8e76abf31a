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
from interpretability.evaluation.pictures import measures_figure, randomization_figure
from interpretability.evaluation.randomization import cascade
from interpretability.evaluation.table import Interval, interval, table, write_csv

__all__ = [
    "MEASURES",
    "NAMES",
    "RANDOM",
    "Evaluation",
    "Explainer",
    "Interval",
    "Settings",
    "area",
    "cascade",
    "completeness_error",
    "evaluate",
    "explainers",
    "infidelity",
    "interval",
    "measures_figure",
    "perturbation_curve",
    "randomization_figure",
    "rank_correlation",
    "relative_change",
    "table",
    "write_csv",
]
