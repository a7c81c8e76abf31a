"""A search space: options of ``train.py``, each with the range or the choices that are searched."""

import json
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from console import UserError, nearest

RANGE_KEYS = ("low", "high", "step", "log")
SHAPE = "a list of choices, or {low: …, high: …} with step: … or log: true"
Space = dict[str, BaseDistribution]


def parse(section: Any, source: str) -> Space:
    """The distributions that the ``tune`` section of an experiment describes.

    Args:
        section: option's name, as ``model.learning_rate`` → a list of choices, or a range.
        source: what errors call the file.

    Raises:
        UserError: no section, or an option whose range is none; it is named.
    """
    if not isinstance(section, Mapping) or not section:
        raise UserError(f"{source} has no search space: give it a section 'tune:' of options, each with {SHAPE}")
    return {name: _distribution(f"tune: {name}", value) for name, value in section.items()}


def _distribution(name: str, value: Any) -> BaseDistribution:
    """Choices, whole numbers or real numbers; lists among the choices are kept as JSON, as storages demand."""
    if isinstance(value, list) and value:
        return CategoricalDistribution([json.dumps(v) if isinstance(v, list | dict) else v for v in value])
    if not isinstance(value, Mapping):
        raise UserError(f"{name} must be {SHAPE}, not {value!r}")
    for key in value:
        if key not in RANGE_KEYS:
            raise nearest(str(key), RANGE_KEYS, f"key of {name}:")
    low, high, step = value.get("low"), value.get("high"), value.get("step")
    numbers = [low, high] if step is None else [low, high, step]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise UserError(f"{name} needs numbers for low and high, got {dict(value)}")
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{name}: log must be true or false, got {log!r}")
    try:
        if all(isinstance(number, int) for number in numbers):
            return IntDistribution(low, high, log=log, step=1 if step is None else step)
        return FloatDistribution(low, high, log=log, step=step)
    except ValueError as error:
        raise UserError(f"{name}: {str(error).rstrip('.')}") from error


def words(params: Mapping[str, Any]) -> list[str]:
    """A setting as options of the command line: ``--model.learning_rate=0.01``."""
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in params.items()]


def samples(space: Space) -> list[dict[str, Any]]:
    """Settings in which every end of a range and every choice occurs, to check that they can be parsed."""
    columns = {name: _extremes(distribution) for name, distribution in space.items()}
    count = max(map(len, columns.values()))
    return [{name: values[min(i, len(values) - 1)] for name, values in columns.items()} for i in range(count)]


def _extremes(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low, distribution.high]


def contains(space: Space, params: Mapping[str, Any]) -> bool:
    """Whether a setting names every option of the space, each within its range."""
    for name, distribution in space.items():
        value = params.get(name)
        if isinstance(distribution, CategoricalDistribution):
            if value not in distribution.choices:
                return False
        elif isinstance(value, bool) or not isinstance(value, int | float):
            return False
        else:
            assert isinstance(distribution, IntDistribution | FloatDistribution)
            step = distribution.step
            whole = step is None or abs((value - distribution.low) / step % 1 - 0.5) > 0.5 - 1e-9
            if not (distribution.low <= value <= distribution.high and whole):
                return False
    return True
