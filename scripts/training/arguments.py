"""The part of the command line that needs no torch: experiment, ``--resume``, and the short help page."""

from dataclasses import dataclass, field
from pathlib import Path

from console import UserError, called, nearest

INSTALLED = Path(__file__).resolve().parents[1] / "configs"  # in a wheel they lie inside the package
CONFIGS = INSTALLED if INSTALLED.is_dir() else INSTALLED.parents[1] / "configs"
DEFAULT_EXPERIMENT = "digits"

HELP = """usage: {command} [EXPERIMENT] [--config FILE] [--model.… --data.… --trainer.…] [--resume PATH]

Train a network, watch it in TensorBoard, test the best checkpoint.

experiments (configs/*.yaml; digits when none is named):
{experiments}

common options:
  --trainer.max_epochs N         train for N epochs
  --model.learning_rate X        any argument of the model
  --data.batch_size N            any argument of the datamodule
  --data.data_dir DIR            where MNIST lies or is downloaded to
  --trainer.callbacks+=NAME      add a callback, ours or any importable one
  --trainer.default_root_dir DIR write runs/ under DIR
  --seed_everything N            the seed of everything random
  --config FILE                  settings of your own, on top of the experiment's or alone
  --resume PATH                  go on with an interrupted run: its folder or a checkpoint
  EXPERIMENT --help              every option of an experiment

A run writes runs/EXPERIMENT/VERSION: config.yaml, checkpoints/, figures/, metrics.csv, TensorBoard events.
"""


@dataclass
class Arguments:
    """What is to be run: configuration files, further arguments for LightningCLI, where to resume."""

    experiment: str
    configs: list[Path]
    rest: list[str] = field(default_factory=list)
    resume: Path | None = None


def experiments() -> dict[str, Path]:
    """Experiment name → its YAML file."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}


def short_help() -> str:
    """The page for ``--help`` without an experiment: each experiment with its file's first comment."""
    lines = []
    for name, path in experiments().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        lines.append(f"  {name:<12} {first.lstrip('# ')}")
    return HELP.format(command=called("train"), experiments="\n".join(lines))


def split(argv: list[str]) -> Arguments:
    """Take the experiment, ``--config`` and ``--resume`` from ``argv``; the rest is LightningCLI's.

    Raises:
        UserError: an unknown experiment, a file that is not there, ``--resume`` beside an experiment.
    """
    words = list(argv)
    named = words.pop(0) if words and not words[0].startswith("-") else None
    files = [Path(value) for value in _take(words, "--config") + _take(words, "-c")]
    resume = _take(words, "--resume")
    if len(resume) > 1:
        raise UserError("--resume was given twice")
    for path in files:
        if not path.is_file():
            raise UserError(f"--config: there is no file {path}")
    if resume:
        if named or files:
            raise UserError("--resume goes on with the run's own settings; name no experiment or --config beside it")
        return _resumed(Path(resume[0]), words)
    if named is not None and named not in experiments():
        raise nearest(named, experiments(), "experiment")
    if named is None and not files:
        named = DEFAULT_EXPERIMENT
    base = [experiments()[named]] if named else []
    return Arguments(named or files[-1].stem, base + files, words)


def _resumed(path: Path, words: list[str]) -> Arguments:
    """The arguments of the run that ``path`` (its folder, or a checkpoint in it) belongs to."""
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise UserError(f"--resume: there is no checkpoint {checkpoint}")
    checkpoint = checkpoint.resolve()
    return Arguments(checkpoint.parents[2].name, [config_beside(checkpoint)], words, checkpoint)


def config_beside(checkpoint: Path) -> Path:
    """The ``config.yaml`` of the run that wrote this checkpoint."""
    config = checkpoint.resolve().parents[1] / "config.yaml"
    if not config.is_file():
        raise UserError(f"{checkpoint}: there is no {config.name} in the folder above; it is needed to rebuild the run")
    return config


def _take(words: list[str], option: str) -> list[str]:
    """Remove ``option VALUE`` and ``option=VALUE`` from ``words`` and give the values back."""
    values, index = [], 0
    while index < len(words):
        if words[index] == option:
            if index + 1 == len(words):
                raise UserError(f"{option} needs a value")
            values.append(words[index + 1])
            del words[index : index + 2]
        elif words[index].startswith(f"{option}="):
            values.append(words.pop(index).partition("=")[2])
        else:
            index += 1
    return values
