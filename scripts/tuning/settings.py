"""The experiment that is tuned: its resolved settings, its search space and the metric that decides."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from console import UserError
from interpretability.whole_files import whole_file
from training.arguments import Arguments
from training.cli import BacklitCLI
from training.session import user_errors
from tuning import space
from tuning.space import Space

# where and how a trial runs, which may differ between the machines that share a study; not what it computes
PLACES = {"default_root_dir", "data_dir", "mirrors", "accelerator", "devices", "num_nodes", "num_workers", "logger"}
PLACES |= {"enable_progress_bar", "enable_model_summary", "num_sanity_val_steps", "callbacks"}


class ParsedSettings(BacklitCLI):
    """The command line parsed and checked; nothing is built from it."""

    def instantiate_classes(self) -> None:
        """Not here: the worker processes do."""


@dataclass(frozen=True)
class Experiment:
    """What is tuned.

    Args:
        arguments: the command line, as ``train.py`` would take it.
        settings: its resolved settings, plain data.
        space: the options that are searched.
        monitor, mode: the validation metric, and whether it is to be small (``min``) or large (``max``).
    """

    arguments: Arguments
    settings: dict[str, Any]
    space: Space
    monitor: str
    mode: str

    @property
    def name(self) -> str:
        """The experiment's name, or that of its file."""
        return self.arguments.experiment

    @property
    def root(self) -> Path:
        """The folder that holds ``runs/``."""
        return Path(self.settings["trainer"]["default_root_dir"] or ".")

    @property
    def max_epochs(self) -> int:
        """The length of a whole trial; 0 where it has none."""
        return max(0, self.settings["trainer"]["max_epochs"] or 0)

    @property
    def seed(self) -> int:
        """The experiment's own seed, which every trial has too."""
        return int(self.settings["seed_everything"] or 0)

    def with_setting(self, params: Mapping[str, Any]) -> Arguments:
        """The command line of this experiment with ``params`` instead of its own values."""
        return replace(self.arguments, rest=[*self.arguments.rest, *space.words(params)])

    def own_setting(self) -> dict[str, Any] | None:
        """The values that the experiment itself has for the searched options; None where they lie outside."""
        params = {name: _as_choice(_at(self.settings, name)) for name in self.space}
        return params if space.contains(self.space, params) else None

    def fingerprint(self) -> dict[str, Any]:
        """Everything but the searched options that a trial's result depends on, flat."""
        apart = {*self.space, "checkpoint.monitor", "checkpoint.mode"}
        flat = {key.replace(".init_args.", "."): value for key, value in _flat(self.settings) if key != "tune"}
        return {key: value for key, value in flat.items() if key not in apart and not PLACES & set(key.split("."))}


def read(arguments: Arguments) -> Experiment:
    """Parse the command line and the search space, and check every end of it against the options.

    Raises:
        UserError: an unknown option (the nearest is named), a value of the wrong type, no validation metric.
    """
    parsed = parse(arguments)
    settings = as_plain(parsed)
    source = str(arguments.configs[-1]) if arguments.configs else "the command line"
    searched = space.parse(settings.get("tune"), source)
    checkpoint = settings["checkpoint"]
    monitor = checkpoint["monitor"]
    if monitor is None or monitor.startswith(("train", "test")):
        raise UserError(
            f"{arguments.experiment} is judged by {monitor or 'its training loss'}; a search needs a validation metric:"
            " --checkpoint.monitor=val/loss"
        )
    experiment = Experiment(arguments, settings, searched, monitor, checkpoint["mode"])
    for sample in space.samples(searched):
        parse(experiment.with_setting(sample))
    return experiment


def parse(arguments: Arguments) -> ParsedSettings:
    """The settings of a command line, without building anything from them."""
    with user_errors(TypeError):
        return ParsedSettings(arguments)


def as_plain(parsed: ParsedSettings) -> dict[str, Any]:
    """The resolved settings as dictionaries, lists and numbers."""
    return yaml.safe_load(parsed.parser.dump(parsed.config, skip_none=False))


def write_tuned(path: Path, experiment: Experiment, params: Mapping[str, Any], remark: str) -> None:
    """The whole experiment with ``params`` in a file that ``train.py --config`` takes."""
    settings = as_plain(parse(experiment.with_setting(params)))
    settings.pop("tune", None)
    lines = [remark, *(f"{name}: {value}" for name, value in params.items())]
    text = "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _at(settings: Any, name: str) -> Any:
    """The value of option ``name``; ``model.hidden`` lies at ``model.init_args.hidden``."""
    for part in name.split("."):
        if not isinstance(settings, dict):
            return None
        if part != "init_args" and part not in settings and isinstance(settings.get("init_args"), dict):
            settings = settings["init_args"]
        settings = settings.get(part)
    return settings


def _as_choice(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
