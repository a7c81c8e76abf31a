"""The end of a run: a short table, where everything lies, and how to look at it."""

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

RESULT_STAGES = ("test", "val", "train")


def results_table(metrics: dict[str, float]) -> str:
    """Metrics under their log keys, those of the test stage first, a line each: ``test/accuracy 0.9912``."""
    shown = [key for stage in RESULT_STAGES for key in sorted(metrics) if key.startswith(f"{stage}/")]
    shown = [key for key in shown if not key.endswith("_step")]
    width = max((len(key) for key in shown), default=0)
    return "\n".join(f"{key:<{width}} {in_digits(metrics[key])}" for key in shown)


def in_digits(value: float) -> str:
    """Four decimals, or an exponent where they would show nothing."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.2e}"


def log_hyperparameters(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Hyper-parameters beside final metrics in TensorBoard's HParams tab, in the run's own directory."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            plain = {k: v for k, v in logger.hparams.items() if isinstance(v, int | float | str) and k[0] != "_"}
            results = {k: v for k, v in metrics.items() if k.startswith(RESULT_STAGES) and not k.endswith("_step")}
            logger.log_hyperparams(plain, results, step=trainer.global_step)
            logger.finalize("success")
