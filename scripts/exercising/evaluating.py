"""The tables of docs/evaluation.md: how far the explanations of both networks can be trusted."""

import csv
from pathlib import Path
from typing import Any

from exercising.workspace import PHOTO_MODEL, Workspace

PHOTOS = ("dog_cat", "china", "flower")
OF_PHOTOS = ("Saliency", "InputXGradient", "IntegratedGradients", "GuidedBackprop", "GradCAM")
OF_PHOTOS += ("LayerCAM", "XGradCAM", "HiResCAM", "EigenCAM", "FullGrad", "FeatureAblation")
OF_PHOTOS += ("LRP epsilon_gamma", "LRP z_plus", "DeepLift")
OF_DIGITS = ("Saliency", "InputXGradient", "IntegratedGradients", "SmoothGrad", "VarGrad", "GuidedBackprop")
OF_DIGITS += ("Deconvolution", "Occlusion", "FeatureAblation", "LRP epsilon", "LRP epsilon_gamma", "LRP epsilon_plus")
OF_DIGITS += ("LRP z_plus", "DeepLift", "GradientShap", "DeepLiftShap", "KernelShap", "ShapleySampling", "Lime")
OF_DIGITS += ("RISE", "GradCAM", "GradCAMPlusPlus", "GuidedGradCAM", "LayerCAM", "XGradCAM", "HiResCAM", "EigenCAM")
OF_DIGITS += ("AblationCAM", "ScoreCAM", "FullGrad")


def evaluation(work: Workspace) -> dict[str, Any]:
    """Every method by every measure, on MNIST and on photos."""
    digits_methods, photo_methods = (
        [word for method in methods for word in ("--method", method)] for methods in (OF_DIGITS, OF_PHOTOS)
    )
    photos = [work.photo(name) for name in PHOTOS]
    digits = ("--data", "mnist", "--data-dir", work.data_dir, "--split", "test", "--samples", 16)
    few = ("--n-noises", 2, "--n-steps", 14, "--n-squares", 48)
    fewer = ("--n-noises", 1, "--n-stages", 4, "--n-steps", 10, "--n-squares", 24)
    commands = {
        "mnist": ("--model", work.run_folder("mnist"), *digits, *digits_methods, *few),
        "squeezenet": (*photos, "--model", PHOTO_MODEL, "--weights", work.weights, *photo_methods, *fewer),
    }
    found = {}
    for name, words in commands.items():
        output = work.runs / "evaluation" / name
        printed = work.command(
            "explain.py", "evaluate", *words, "--output", output, shown=f"explain.py evaluate: {name}"
        )
        lines = printed.partition("\n\n")[0], printed.partition("\n\n")[2].partition("\n\n")[0]
        table, ranking = ("\n".join(line for line in part.splitlines() if line.startswith("|")) for part in lines)
        verdict = printed.partition(ranking)[2].strip().partition("\n\n")[0]
        found[name] = {
            "table": table, "ranking": ranking, "verdict": verdict, "means": means(output / "evaluation.csv"),
        }  # fmt: skip
        for picture in ("measures", "agreement", "randomization") if name == "mnist" else ("randomization",):
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
