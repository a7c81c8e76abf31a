"""Task 2 (b): one setting changed at a time, several seeds each, judged on validation data alone."""

import logging
import statistics
import warnings
from typing import TYPE_CHECKING, Any

from exercising.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = (0, 1, 2)
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5)  # of the loss, in the picture
EPOCHS = 8
MODEL: dict[str, Any] = {"channels": [16, 32], "hidden": 128, "dropout": 0.3, "batch_norm": True}
MODEL["learning_rate"] = 0.005
DATA: dict[str, Any] = {"batch_size": 64, "degrees": 8.0, "translate": 0.06, "scale": 0.1}
STILL = {"degrees": 0.0, "translate": 0.0, "scale": 0.0}
# setting -> value shown -> what differs from configs/digits.yaml
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "learning rate": {f"{lr:g}": {"learning_rate": lr} for lr in (0.0001, 0.001, 0.005, 0.02, 0.1)},
    "batch size": {f"{n}": {"batch_size": n} for n in (64, 256)},
    "epochs": {f"{n}": {"epochs": n} for n in (3, 8)},
    "channels": {f"{a}, {2 * a}": {"channels": [a, 2 * a]} for a in (4, 16)},
    "dropout": {f"{p:g}": {"dropout": p} for p in (0.0, 0.3)},
    "batch norm": {"off": {"batch_norm": False}, "on": {}},
    "augmentation": {"off": STILL, "on": {}},
}


def settings(work: Workspace) -> dict[str, Any]:
    """Validation loss and accuracy of each change, and the spread between seeds."""
    from tqdm import tqdm

    runs: dict[str, list[dict[str, float]]] = {}
    changes = {key(change): change for values in CHANGES.values() for change in values.values()}
    with tqdm(total=len(changes) * len(SEEDS), desc="settings", unit="run") as bar:
        for name, change in changes.items():
            runs[name] = []
            for seed in SEEDS:
                runs[name].append(run(change, seed))
                bar.update()
    table = {
        setting: [summary(shown, runs[key(change)]) for shown, change in values.items()]
        for setting, values in CHANGES.items()
    }
    work.picture("task2-settings.png", draw(table))
    usual = table["learning rate"][2]
    rows = [row for values in table.values() for row in values]
    within = [row for row in rows if abs(row["accuracy"] - usual["accuracy"]) <= usual["half_interval"]]
    return {
        "table": {name.replace(" ", "_"): values for name, values in table.items()},
        "seeds": len(SEEDS),
        "usual": usual,
        "runs": len(changes) * len(SEEDS),
        "settings": len(changes),
        "validation_images": usual["images"],
        "rows": len(rows),
        "rows_within_interval": len(within),
    }


def key(change: dict[str, Any]) -> str:
    """What of a change differs from the usual settings: the same for all that change nothing."""
    usual = {**MODEL, **DATA, "epochs": EPOCHS}
    return repr({name: value for name, value in change.items() if value != usual[name]})


def run(change: dict[str, Any], seed: int) -> dict[str, float]:
    """The validation metrics of the digits experiment with ``change``, after its last epoch."""
    from lightning import Trainer, seed_everything

    from datamodules import DigitsDataModule
    from lit_models import LitCNN

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    seed_everything(seed, verbose=False)
    data = DigitsDataModule(**{name: change.get(name, value) for name, value in DATA.items()})
    model = LitCNN(**{name: change.get(name, value) for name, value in MODEL.items()})
    trainer = Trainer(
        max_epochs=change.get("epochs", EPOCHS),
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    trainer.limit_val_batches = 1.0
    (found,) = trainer.validate(model, data, verbose=False)
    return {"accuracy": found["val/accuracy"], "loss": found["val/loss"], "images": len(data.splits["val"])}


def summary(shown: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, the range of the losses, and half the width of the accuracy's 95 % interval."""
    from callbacks.test_report import wilson_interval

    accuracy, losses = statistics.fmean(run["accuracy"] for run in runs), [run["loss"] for run in runs]
    n = int(runs[0]["images"])
    low, high = wilson_interval(accuracy * n, n)
    return {
        "value": shown,
        "accuracy": accuracy,
        "half_interval": (high - low) / 2,
        "loss": statistics.fmean(losses),
        "losses": losses,
        "images": n,
    }


def draw(table: dict[str, list[dict[str, Any]]]) -> "Figure":
    """Validation loss against each setting's values: dots are seeds, the line is their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.6), dpi=120, layout="constrained")
    grid = figure.subplots(2, 4, sharey=True)
    for axes, (name, rows) in zip(grid.flat, table.items()):
        places = range(len(rows))
        axes.plot(places, [row["loss"] for row in rows], "-", color="#0072B2", lw=1.5)
        for place, row in zip(places, rows):
            axes.plot([place] * len(row["losses"]), row["losses"], "o", color="#0072B2", ms=6, alpha=0.6)
        axes.set_xticks(places, [row["value"] for row in rows])
        axes.set(yscale="log", xlim=(-0.4, len(rows) - 0.6))
        axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.minorticks_off()
        axes.set_title(name, fontsize=12, loc="left", fontweight="bold")
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    grid.flat[-1].set_axis_off()
    text = "Dots are networks from several\nseeds, lines their mean. All\nelse is as in\nconfigs/digits.yaml; 8 epochs."
    grid.flat[-1].text(0.02, 0.9, text, fontsize=11, va="top", transform=grid.flat[-1].transAxes)
    for axes in grid[:, 0]:
        axes.set_ylabel("validation loss", fontsize=11)
    return figure
