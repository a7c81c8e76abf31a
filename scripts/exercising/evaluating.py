"""The tables of docs/evaluation.md: how far the explanations of both networks can be trusted."""

import csv
from pathlib import Path
from typing import Any

from exercising.workspace import PHOTO_MODEL, Workspace

PHOTOS = ("dog_cat", "china", "flower")
METHODS = ("Saliency", "InputXGradient", "IntegratedGradients", "GuidedBackprop", "GradCAM")
METHODS += ("LRP epsilon_gamma", "LRP z_plus", "DeepLift")


def evaluation(work: Workspace) -> dict[str, Any]:
    """Every method by every measure, on MNIST and on photos."""
    methods = [word for method in METHODS for word in ("--method", method)]
    photos = [work.photo(name) for name in PHOTOS]
    digits = ("--data", "mnist", "--data-dir", work.data_dir, "--split", "test", "--samples", 16)
    few = ("--n-noises", 2, "--n-steps", 14, "--n-squares", 48)
    fewer = ("--n-noises", 1, "--n-stages", 4, "--n-steps", 10, "--n-squares", 24)
    commands = {
        "mnist": ("--model", work.run_folder("mnist"), *digits, *few),
        "squeezenet": (*photos, "--model", PHOTO_MODEL, "--weights", work.weights, *methods, *fewer),
    }
    found = {}
    for name, words in commands.items():
        output = work.runs / "evaluation" / name
        printed = work.command(
            "explain.py", "evaluate", *words, "--output", output, shown=f"explain.py evaluate: {name}"
        )
        first = printed.partition("\n\n")[0]  # the ranking follows it
        table = "\n".join(line for line in first.splitlines() if line.startswith("|"))
        found[name] = {"table": table, "means": means(output / "evaluation.csv")}
        for picture in ("measures", "randomization") if name == "mnist" else ("randomization",):
            work.picture(f"{picture}-{name}.jpg", output / f"{picture}.png")
    return found


def means(path: Path) -> dict[str, dict[str, float]]:
    """Method -> measure -> mean, names without blanks."""
    found: dict[str, dict[str, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["mean"] != "nan":
                found.setdefault(row["method"].replace(" ", "_"), {})[row["measure"]] = float(row["mean"])
    return found
