"""LightningCLI for this project: any model, data and callback by name, one folder a run, shapes from the data."""

import importlib
import inspect
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

import callbacks  # noqa: F401  (names that a configuration may use without their package)
import datamodules  # noqa: F401
import lit_models  # noqa: F401
from callbacks import EpochMeans, RandomState, RunProgress, RunReport
from console import UserError, called, shorten
from interpretability.whole_files import whole_file
from training.arguments import CONFIGS, Arguments
from training.checkpoints import AtomicCheckpoints
from training.determinism import default_for
from training.interrupts import StopWhenAsked
from training.messages import condense
from training.run_directory import MetricsFile, new_run_directory, read_checkpoint
from training.trainer import Trainer

SHAPES = ("input_shape", "num_outputs")
MAX_SEED = 2**32 - 1  # what NumPy accepts


def as_list(value: Any) -> Any:
    """Tuples as lists, so that a shape from YAML equals one from code."""
    return list(value) if isinstance(value, tuple) else value


def from_yaml(text: str, source: str) -> Any:
    """The value that ``text`` stands for; where it is no YAML the error names ``source`` and the place."""
    try:
        value = yaml.safe_load(text)
        refuse_cycles(value, source)
        return value
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{source} is not valid YAML: {place}{problem}") from error
    except RecursionError:
        raise UserError(f"{source} is not valid YAML: its lists or maps are nested too deeply") from None


def refuse_cycles(value: Any, source: str, above: frozenset[int] = frozenset(), seen: set[int] | None = None) -> None:
    """Raise where a list or map of a YAML file holds itself, as an alias allows; each is looked at once."""
    seen = set() if seen is None else seen
    if id(value) in above:
        raise UserError(f"{source} is not valid YAML: a list or map refers to itself")
    if not isinstance(value, dict | list) or id(value) in seen:
        return
    seen.add(id(value))
    for part in value.values() if isinstance(value, dict) else value:
        refuse_cycles(part, source, above | {id(value)}, seen)


def settings_in(path: Path) -> dict[str, Any]:
    """The settings in a configuration file; an error that names it where it holds none."""
    try:
        settings = from_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8") from error
    if not isinstance(settings, dict):
        raise UserError(
            f"{path} must hold settings such as 'trainer: {{max_epochs: 3}}', not {shorten(repr(settings), 60)}"
        )
    return settings


def asks_for(class_path: str, name: str) -> bool:
    """Whether the class's constructor takes an argument of this name, itself or by handing ``**kwargs`` on."""
    module, _, class_name = class_path.rpartition(".")
    for base in getattr(importlib.import_module(module), class_name).__mro__:
        parameters = inspect.signature(base.__init__).parameters
        if name in parameters:
            return True
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return False


def given_shapes(arguments: Arguments) -> dict[str, Any]:
    """The shapes that configuration files or options name by hand; the later wins."""
    given: dict[str, Any] = {}
    for path in arguments.configs:
        model = settings_in(path).get("model")
        init_args = model.get("init_args") if isinstance(model, dict) else None
        given |= {name: init_args[name] for name in SHAPES if isinstance(init_args, dict) and name in init_args}
    for name in SHAPES:
        pattern = re.compile(rf"--model\.(?:init_args\.)?{name}(?:=(.*))?")
        for word, following in zip(arguments.rest, [*arguments.rest[1:], ""]):
            if found := pattern.fullmatch(word):
                given[name] = from_yaml(following if found[1] is None else found[1], f"--model.{name}")
    return given


@dataclass
class Checkpoints:
    """What ``best.ckpt`` follows, and how often checkpoints are considered.

    Args:
        monitor: the logged metric that decides which epoch is best; None for ``val/loss``, or for ``train/loss``
            where the datamodule says by ``validates = False`` that it holds nothing out.
        mode: whether a smaller (``min``) or a larger (``max``) value is better.
        every_n_epochs: epochs between two checkpoints.
    """

    monitor: str | None = None
    mode: Literal["min", "max"] = "min"
    every_n_epochs: int = 1

    def __post_init__(self) -> None:
        if self.every_n_epochs < 1:
            raise ValueError(f"--checkpoint.every_n_epochs must be at least 1, got {self.every_n_epochs}")

    def callbacks(self, folder: Path, data: LightningDataModule) -> list[ModelCheckpoint]:
        """One keeps ``best.ckpt``, the other ``last.ckpt``; both in ``folder``, both overwritten in place."""
        shared: dict[str, Any] = {
            "dirpath": folder,
            "every_n_epochs": self.every_n_epochs,
            "enable_version_counter": False,
            "save_on_train_epoch_end": True,
        }
        monitor = self.monitor or ("val/loss" if getattr(data, "validates", True) else "train/loss")
        best = ModelCheckpoint(filename="best", monitor=monitor, mode=self.mode, **shared)
        return [best, ModelCheckpoint(filename="last", **shared)]


class BacklitCLI(LightningCLI):
    """Parses, instantiates, and knows the run's folder.

    Args:
        arguments: the command line, split.
        write_run: make a folder with logger and checkpoints; without, the Trainer leaves no trace.
        without: kinds of callbacks to leave out of those that are configured.
    """

    trainer: Trainer

    def __init__(self, arguments: Arguments, write_run: bool = True, without: tuple[type[Callback], ...] = ()):
        self.arguments, self.write_run, self.without = arguments, write_run, without
        self.folder: Path | None = None
        self.given_shapes = given_shapes(arguments)
        files = [word for path in arguments.configs for word in ("--config", str(path))]
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=Trainer,
            save_config_callback=None,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            parser_kwargs={
                "exit_on_error": False,
                "allow_abbrev": False,
                "prog": f"{called('train')} {arguments.experiment}",
            },
            args=files + arguments.rest,
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Checkpoint settings, the space of ``tune.py``, and the shapes that flow into a model that asks for them."""
        parser.add_class_arguments(Checkpoints, "checkpoint")
        parser.add_argument("--tune", type=dict[str, Any] | None, default=None, help="what tune.py searches")
        for name in SHAPES:
            parser.link_arguments("data", f"model.init_args.{name}", partial(self._shape, name), apply_on="instantiate")

    def _shape(self, name: str, data: LightningDataModule) -> Any:
        """The data's ``input_shape`` or ``num_outputs``; a different one given by hand is an error."""
        flows, given = getattr(data, name, None), self.given_shapes.get(name)
        source = type(data).__name__
        if flows is None and given is None and asks_for(self.config["model"]["class_path"], name):
            raise UserError(f"{source} does not say its {name}; give it that attribute, or --model.{name}")
        if flows is not None and given is not None and as_list(flows) != as_list(given):
            raise UserError(
                f"--model.{name} is {given}, but {source} has {flows}; leave it out, it follows from the data"
            )
        return given if flows is None else flows

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what was handed in, not ``sys.argv``."""
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise UserError(self._where(condense(str(error), parser._option_string_actions))) from error
        for name in ("trainer", "checkpoint"):
            if not isinstance(self.config[name], Namespace):
                raise UserError(f"--{name} must hold options of its own, not {self.config[name]!r}")
        seed = self.config["seed_everything"]
        if seed is not None and not 0 <= seed <= MAX_SEED:
            raise UserError(f"--seed_everything must be from 0 to {MAX_SEED}, got {seed}")

    def _where(self, message: str) -> str:
        """The message, after the names of the configuration files where no word of the command line is to blame."""
        option = re.search(r"--[\w.]+", message)
        own = [str(path) for path in self.arguments.configs if path.parent != CONFIGS]
        if not own or option is None or any(word.startswith(option[0]) for word in self.arguments.rest):
            return message
        return f"{', '.join(own)}: {message}"

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer, with the run's folder, loggers and checkpoints where a run is written."""
        settings = self.config_init["trainer"]
        if settings["deterministic"] is None:
            kwargs["deterministic"] = default_for(settings["accelerator"])
        if not self.write_run:
            kwargs |= {"logger": False, "enable_checkpointing": False}
        self._leave_out(settings, kwargs.get("logger", settings["logger"]))
        if not self.write_run:
            return super().instantiate_trainer(**kwargs)
        resume = self.arguments.resume
        root = Path(settings["default_root_dir"] or ".")
        self.folder = resume.parents[1] if resume else new_run_directory(root, self.arguments.experiment)
        if settings["logger"] in (None, True):
            kwargs["logger"] = self._loggers(self.folder)
        kwargs["default_root_dir"] = self.folder  # where things go that are written without a logger
        checkpoints = self.folder / "checkpoints"
        again = f"{called('train')} --config {self.folder / 'config.yaml'}"
        report = RunReport(title=self.arguments.experiment, command=again)
        ours: list[Callback] = [RandomState(), EpochMeans(), report, StopWhenAsked(checkpoints / "last.ckpt")]
        if settings["enable_progress_bar"] is not False:
            ours.append(RunProgress())
        if not settings["fast_dev_run"] and settings["enable_checkpointing"] is not False:
            ours += self.config_init["checkpoint"].callbacks(checkpoints, self.config_init["data"])
        self.trainer_defaults["callbacks"] = ours
        plugins = settings["plugins"] or []
        kwargs["plugins"] = [AtomicCheckpoints(), *(plugins if isinstance(plugins, list) else [plugins])]
        try:
            return super().instantiate_trainer(**kwargs)
        except BaseException:
            with suppress(OSError):  # leave no empty folder of a run that never began
                self.folder.rmdir()
            raise

    def _leave_out(self, settings: Any, logger: Any) -> None:
        """Drop the callbacks that this run goes without."""
        without = self.without
        if logger is False:  # it refuses to run without one, and would have nothing to say
            without = (*without, LearningRateMonitor)
        given = settings["callbacks"] or []
        given = given if isinstance(given, list) else [given]
        settings["callbacks"] = [callback for callback in given if not isinstance(callback, without)]

    def _loggers(self, folder: Path) -> list:
        resume = self.arguments.resume
        step = None if resume is None else read_checkpoint(resume)["global_step"]
        tensorboard = TensorBoardLogger(
            folder.parents[1], folder.parent.name, folder.name, default_hp_metric=False, purge_step=step
        )
        return [tensorboard, MetricsFile(folder)]

    def save_config(self) -> None:
        """Write the resolved settings to ``config.yaml`` in the run's folder; only the first rank does."""
        if self.folder is None or not self.trainer.is_global_zero:
            return
        with whole_file(self.folder / "config.yaml") as partial:
            partial.write_text(self.parser.dump(self.config, skip_none=False), encoding="utf-8")
