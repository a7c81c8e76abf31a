"""The course sheet, answered from measurements: runs every experiment behind docs/exercise.md and writes it anew.

Finished stages are skipped, so that an interrupted run goes on where it was; --only runs its stages in any case.
"""

import importlib
import os
import time
from pathlib import Path

import console

# stage -> the file of `exercising` that holds it, in an order in which each finds what it needs
STAGES = {
    "regression": "training",
    "digits": "training",
    "mnist": "training",
    "mnist_mlp": "training",
    "mnist_explicit": "formulas",
    "settings": "settings",
    "tsne": "embedding",
    "saliency": "photos",
    "detectors": "detectors",
    "dictionary": "detectors",
    "places": "places",
    "groups": "places",
    "covering": "places",
    "classes": "photos",
    "networks": "photos",
    "attack": "photos",
    "own": "own_model",
    "page": "own_model",
    "evaluation": "evaluating",
}


def parse() -> "console.argparse.Namespace":
    """The command line."""
    from exercising import workspace

    shared = workspace.SHARED / "data"
    weights, second = shared / "squeezenet1_0_imagenet.pt", shared / "efficientnet_lite0_imagenet.pt"
    mnist = shared / "MNIST"
    parser = console.ArgumentParser(prog="exercise.py", description=__doc__)
    parser.add_argument("--only", action="append", metavar="STAGE", help=f"may be repeated: {', '.join(STAGES)}")
    parser.add_argument("--document", action="store_true", help="run nothing, write the documents of stored numbers")
    default = str(weights) if weights.is_file() else "DEFAULT"
    parser.add_argument("--weights", default=default, help="SqueezeNet's: a file, or a name that torchvision knows")
    default = str(second) if second.is_file() else "DEFAULT"
    parser.add_argument("--second-weights", default=default, help="EfficientNet-Lite0's (timm): a file, or DEFAULT")
    parser.add_argument("--photos", type=Path, default=shared / "images", help="the folder with dog_cat.png")
    data_dir = shared if mnist.is_dir() and not Path("data", "MNIST").is_dir() else Path("data")
    parser.add_argument("--data-dir", type=Path, default=data_dir, help="the folder above MNIST/raw")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/exercise"), help="for trained networks, figures, arrays"
    )
    return parser.parse_args()


def main() -> None:
    """Run what is not yet done, a stage at a time; then write the documents."""
    args = parse()
    for name in args.only or ():
        if name not in STAGES:
            raise console.nearest(name, STAGES, "stage")

    from exercising import documents, workspace

    docs = workspace.ROOT / "docs"
    work = workspace.Workspace(
        runs=args.runs.resolve(),
        numbers=docs / "exercise.json",
        pictures=docs / "images" / "exercise",
        weights=args.weights,
        second_weights=args.second_weights,
        photos=args.photos,
        data_dir=args.data_dir.resolve(),
    )
    wanted = [] if args.document else args.only or [name for name in STAGES if not done(work, name).exists()]
    for number, name in enumerate(wanted, start=1):
        print(f"\n=== {name} ({number} of {len(wanted)}) ===", flush=True)
        wall, cpu = time.monotonic(), sum(os.times()[:4])
        stage = getattr(importlib.import_module(f"exercising.{STAGES[name]}"), name)
        found = stage(work)
        spent = {"wall_seconds": round(time.monotonic() - wall), "cpu_seconds": round(sum(os.times()[:4]) - cpu)}
        work.store(name, found | spent)
        done(work, name).parent.mkdir(parents=True, exist_ok=True)
        done(work, name).touch()
        print(f"=== {name}: {spent['wall_seconds']} s, {spent['cpu_seconds']} s of processor time ===")
    for path in documents.write(work):
        print(path)


def done(work, name: str) -> Path:
    """The mark of a finished stage."""
    return work.runs / "done" / name


if __name__ == "__main__":
    console.run(main)
