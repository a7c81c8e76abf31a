"""A whole run: build from the command line, train, test the best checkpoint, report."""

import logging
import pickle
import re
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning import Callback
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.plugins.precision import DoublePrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden

from callbacks import RunReport, tensorboard_command
from console import EXIT_INTERRUPTED, EXIT_TERMINATED, UserError, called, shorten
from training.arguments import Arguments, config_beside
from training.cli import BacklitCLI, from_yaml, settings_in
from training.determinism import exceptions_named
from training.interrupts import Interrupted, StopWhenAsked, sigterm_as_interrupt
from training.messages import condense
from training.results import log_hyperparameters, results_table
from training.resuming import CheckLength, changed_settings, check_changes
from training.run_directory import check_fits, read_checkpoint

# said by libraries about themselves, nothing that a user of this program could act on
NOISE = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The '\w+_dataloader' does not have many workers",
    r".*`sync_dist=True`.*",
    r"Checkpoint directory .* exists and is not empty",
    r"Trying to infer the `batch_size`",
    r"Precision .* is not supported by the model summary",
    r"Be aware that when using `ckpt_path`",
    r"Total length of `list` across ranks is zero",
    r"GPU available but not used",
    r"The number of training batches .* is smaller than the logging interval",
)


def quiet_libraries() -> None:
    """Keep off the terminal what Lightning says of itself, of loader processes and of devices that are not there."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    said = re.compile("💡|Seed set to|GPU available: False|TPU available: False|that has Tensor Cores|LOCAL_RANK: 0")
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
        "lightning.pytorch.accelerators.cuda",
    ):
        logging.getLogger(name).addFilter(lambda record: not said.search(record.getMessage()))
    threading.excepthook = told_where_it_matters


def told_where_it_matters(arguments: threading.ExceptHookArgs) -> None:
    """A thread's traceback; none of TensorBoard's writer, whose error the next write of the run raises again."""
    if type(arguments.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(arguments)


@contextmanager
def user_errors(*more: type[Exception]) -> Iterator[None]:
    """Configuration errors of the libraries, and ``more``, become errors of the person who wrote the configuration."""
    try:
        yield
    except (ValueError, MisconfigurationException, ArithmeticError, pickle.UnpicklingError, *more) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        raise cause or UserError(condense(str(error))) from error


def build(arguments: Arguments, write_run: bool = True, without: tuple[type[Callback], ...] = ()) -> BacklitCLI:
    """Model, data and Trainer from the command line; ``EXPERIMENT --help`` ends here, with every option."""
    quiet_libraries()
    with user_errors(TypeError):  # what libraries say of ``--trainer.devices=abc``
        cli = BacklitCLI(arguments, write_run, without)
    if isinstance(cli.trainer.precision_plugin, DoublePrecision):
        cli.model.double()  # Lightning would, but only after it has rounded a checkpoint's weights to single precision
    return cli


def train(arguments: Arguments, started: float) -> int | None:
    """Fit, test the best checkpoint, print the results; the exit code of an interrupted run otherwise."""
    cli = build(arguments)
    if arguments.resume:
        check_fits(arguments.resume, cli.model)
        tell_what_changed(cli)
        # not before the checkpoint is restored: changed settings that are refused must not replace those that worked
        cli.trainer.callbacks += [CheckLength(), LambdaCallback(on_train_start=lambda *_: cli.save_config())]
    else:
        cli.save_config()
    try:
        with sigterm_as_interrupt():
            metrics, fit_seconds = fit_and_test(cli)
    except (SystemExit, KeyboardInterrupt) as stop:
        return interrupted(cli, stop)
    except OSError as error:
        if error.errno and error.filename is None:  # a write that failed once the file was open, as on a full disk
            error.filename = str(cli.folder)
        raise
    if cli.folder is not None and cli.trainer.is_global_zero:
        log_hyperparameters(cli.trainer, metrics, cli.folder)
        print(results_table(metrics))
        print(f"trained {fit_seconds:.1f} s, in all {time.monotonic() - started:.1f} s")
        print(f"run {cli.folder}")
        tell_report(cli)
        print(f"watch: {tensorboard_command(cli.folder.parents[1])}")
    return None


def fit_and_test(cli: BacklitCLI) -> tuple[dict[str, float], float]:
    """Train, or go on training, and test the best checkpoint; the metrics, and the seconds of training."""
    with user_errors():
        start = time.monotonic()
        with told_by_name(cli), no_trace_of_a_refusal(cli), exceptions_named():
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.arguments.resume, weights_only=True)
        seconds = time.monotonic() - start
        metrics = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
        return metrics | run_test_stage(cli, best_checkpoint(cli)), seconds


def tell_report(cli: BacklitCLI) -> None:
    """Where the report lies, if one was written."""
    for callback in cli.trainer.callbacks:
        if isinstance(callback, RunReport) and callback.path is not None:
            print(f"report {callback.path}")


def tell_what_changed(cli: BacklitCLI) -> None:
    """Say in a line which settings are not those of the run that is resumed, and that its table is gone."""
    assert cli.arguments.resume is not None and cli.folder is not None
    checkpoint = read_checkpoint(cli.arguments.resume)
    now = from_yaml(cli.parser.dump(cli.config, skip_none=False), "the command line")
    line = check_changes(changed_settings(settings_in(config_beside(cli.arguments.resume)), now), checkpoint)
    if not cli.trainer.is_global_zero:
        return
    if line is not None:
        print(line)
    table = cli.folder / "metrics.csv"
    if not table.exists():
        print(f"{table} is gone: a new one begins at step {checkpoint['global_step']}")


def has_begun(cli: BacklitCLI) -> bool:
    """Whether training has begun, with everything restored that there was to restore."""
    return any(isinstance(callback, StopWhenAsked) and callback.began for callback in cli.trainer.callbacks)


@contextmanager
def no_trace_of_a_refusal(cli: BacklitCLI) -> Iterator[None]:
    """Take away the empty event file that Lightning opens before a resume is refused."""
    before = set(cli.folder.glob("events.*")) if cli.folder else set()
    try:
        yield
    except Exception:
        if cli.folder and cli.arguments.resume and not has_begun(cli) and cli.trainer.is_global_zero:
            for logger in cli.trainer.loggers:
                logger.finalize("failed")
            for path in set(cli.folder.glob("events.*")) - before:
                path.unlink(missing_ok=True)
        raise


@contextmanager
def told_by_name(cli: BacklitCLI) -> Iterator[None]:
    """Whatever fails while a checkpoint is put back into model, optimisers and callbacks names the checkpoint."""
    try:
        yield
    except Exception as error:
        if has_begun(cli) or cli.arguments.resume is None or isinstance(error, (UserError, OSError)):
            raise
        reason = shorten(f"{type(error).__name__}: {' '.join(str(error).split())}", 200)
        raise UserError(f"{cli.arguments.resume} does not fit this run or is damaged ({reason})") from error


def interrupted(cli: BacklitCLI, stop: BaseException) -> int:
    """Say how to go on; the exit code says which signal it was."""
    cause = stop if isinstance(stop, KeyboardInterrupt) else stop.__context__
    if not isinstance(cause, KeyboardInterrupt):
        raise stop
    tell_report(cli)
    if cli.folder and cli.trainer.is_global_zero and (cli.folder / "checkpoints" / "last.ckpt").is_file():
        print(f"stopped at step {cli.trainer.global_step}; to go on: {called('train')} --resume {cli.folder}")
    terminated = isinstance(cause, Interrupted) and cause.signum == signal.SIGTERM
    return EXIT_TERMINATED if terminated else EXIT_INTERRUPTED


def best_checkpoint(cli: BacklitCLI) -> Path | None:
    """``best.ckpt`` of this run, if it was written; the first rank, which wrote it, tells the others."""
    best = cli.folder / "checkpoints" / "best.ckpt" if cli.folder else None
    return cli.trainer.strategy.broadcast(best if best is not None and best.is_file() else None)


def run_test_stage(cli: BacklitCLI, checkpoint: Path | None) -> dict[str, float]:
    """The test metrics; none where model or data have no test stage."""
    if not is_overridden("test_step", cli.model) or not is_overridden("test_dataloader", cli.datamodule):
        return {}
    results = cli.trainer.test(cli.model, cli.datamodule, ckpt_path=checkpoint, verbose=False, weights_only=True)
    return {key: value for result in results for key, value in result.items()}


def evaluate(arguments: Arguments, checkpoint: Path) -> None:
    """Print the test stage's results for ``checkpoint``; pictures go beside it, under ``evaluation/``."""
    cli = build(arguments, write_run=False)
    check_fits(checkpoint, cli.model)
    with user_errors():
        metrics = run_test_stage(cli, checkpoint)
    if not metrics:
        raise UserError(f"{type(cli.datamodule).__name__} or {type(cli.model).__name__} has no test stage")
    print(results_table(metrics))
