"""Search the settings of an experiment systematically: stop it, go on, share it between processes and machines.

Optuna's TPE suggests, a median rule ends poor trials early, and the validation metric that the experiment's
checkpoints follow decides. The best setting is then trained anew from several seeds, and only then tested.
"""

from pathlib import Path

import console
from training import arguments

EPILOG = """The space is the section 'tune:' of the experiment's YAML, or of a --config FILE of your own:
  tune:
    model.learning_rate: {low: 0.001, high: 0.03, log: true}
    model.hidden: {low: 32, high: 256}
    data.batch_size: [32, 64, 128]
Any option of train.py may follow and holds for every trial (--trainer.max_epochs 5). The same command goes on with
a study that was stopped. A trial runs on one device: on several GPUs start a process for each, on several machines
one or more on each, with the same --storage."""
OPTIONS_OF_A_RUN = ("config", "seed_everything", "model", "data", "trainer", "checkpoint", "tune", "resume", "help")


def parser() -> console.ArgumentParser:
    """The options that are not train.py's."""
    parser = console.ArgumentParser(
        prog=console.called("tune"),
        usage=f"{console.called('tune')} [EXPERIMENT] [--config FILE] [--model.… --data.… --trainer.…] [--trials N] …",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=RawHelp,
    )
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="finished trials that the study is to have")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="start no trial after so long")
    parser.add_argument(
        "--workers", type=int, metavar="W", help="processes that train; one a core, at most 4, by default"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="K", help="runs of the best setting; 0 leaves the test out"
    )
    parser.add_argument("--storage", metavar="URL", help="a database; runs/tune/STUDY/study.db by default")
    parser.add_argument("--study", metavar="NAME", help="the study's name; the experiment's by default")
    return parser


class RawHelp(console.HelpFormatter, console.argparse.RawDescriptionHelpFormatter):
    """Defaults, and texts as they are written."""


def main() -> int | None:
    """Search, rank, draw, retrain."""
    options, rest = parser().parse_known_args()
    check(options, rest)
    run = arguments.split(rest)
    if run.resume:
        raise console.UserError("--resume is train.py's; a study goes on when the same command is run again")

    import logging

    from tuning import settings, study

    for library in ("lightning.pytorch", "lightning.fabric"):  # this process trains nothing
        logging.getLogger(library).setLevel(logging.WARNING)
    experiment = settings.read(run)
    return study.tune(experiment, options)


def check(options: "console.argparse.Namespace", rest: list[str]) -> None:
    """Refuse what cannot be, naming the option."""
    workers = 1 if options.workers is None else options.workers
    for name, good, wanted in (
        ("trials", options.trials >= 1, "at least 1"),
        ("timeout", options.timeout is None or options.timeout > 0, "above 0"),
        ("workers", workers >= 1, "at least 1"),
        ("seeds", options.seeds >= 0, "at least 0"),
        ("study", options.study is None or Path(options.study).name == options.study, "the name of a folder"),
    ):
        if not good:
            raise console.UserError(f"--{name} must be {wanted}, not {getattr(options, name)}")
    own = [*vars(options), *OPTIONS_OF_A_RUN]
    for word in rest:
        name = word.split("=")[0]
        if name.startswith("--") and name[2:].split(".")[0].rstrip("+") not in own:
            raise console.nearest(name, [f"--{option}" for option in own], "option")


if __name__ == "__main__":
    console.run(main)
