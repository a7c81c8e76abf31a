"""Where a stage finds its inputs and leaves its results: numbers in one JSON, pictures in one folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import console

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from explaining.inputs import Inputs

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("BACKLIT_SHARED", ROOT.parent / "shared"))
PHOTO_MODEL = "squeezenet1_0"
SECOND_MODEL = "tf_efficientnet_lite0"  # of timm
LAYERS = ("features.1", "features.5", "features.10", "features.12")  # one for each resolution, and the last
LARGEST_PICTURE = 190_000  # bytes
WIDEST_PICTURE = 1500  # pixels


@dataclass
class Workspace:
    """A stage's inputs and results.

    Attributes:
        runs: trained networks and everything the commands write; may be deleted.
        numbers: the JSON that the documents are made of, an entry for each stage.
        pictures: the folder of their pictures.
        weights: SqueezeNet's, a file or a name that torchvision knows.
        second_weights: EfficientNet-Lite0's, likewise.
        photos: a folder with ``dog_cat.png``, the one photo that no library brings.
        data_dir: the folder above ``MNIST/raw``.
    """

    runs: Path
    numbers: Path
    pictures: Path
    weights: str
    second_weights: str
    photos: Path
    data_dir: Path

    def command(self, *words: object, shown: str | None = None) -> str:
        """Run one of the project's scripts as a user would; what it printed. ``shown`` is printed in its place."""
        line = [sys.executable, str(ROOT / "scripts" / str(words[0])), *map(str, words[1:])]
        print(f"\n$ {shown or 'python scripts/' + shlex.join(map(str, words))}", flush=True)
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            printed = []
            for text in process.stdout:
                print(text, end="", flush=True)
                printed.append(text)
        if process.returncode:
            raise console.UserError(f"{words[0]} ended with exit code {process.returncode}; its own error is above")
        return "".join(printed)

    def photo(self, name: str) -> Path:
        """The file of a photo: scikit-learn's ``china`` and ``flower``, or ``dog_cat`` from the photos' folder."""
        if name == "dog_cat":
            path = self.photos / "dog_cat.png"
            if not path.is_file():
                raise console.UserError(
                    f"there is no {path}: name the folder with a photo of a dog and a cat, --photos"
                )
            return path
        path = self.runs / "photos" / f"{name}.png"
        if not path.is_file():
            from PIL import Image
            from sklearn.datasets import load_sample_image

            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(load_sample_image(f"{name}.jpg")).save(path)
        return path

    def photographed(self, *names: str) -> "Inputs":
        """SqueezeNet and photos, as ``explain.py`` sees them."""
        import torch

        from explaining.inputs import Inputs
        from interpretability import load_model

        loaded = load_model(PHOTO_MODEL, self.weights)
        x = torch.stack([loaded.read(self.photo(name)) for name in names])
        return Inputs(loaded.model, x, list(names), loaded.class_names)

    def run_folder(self, experiment: str) -> Path:
        """The newest finished run of an experiment; UserError where there is none."""
        runs = sorted((self.runs / "runs" / experiment).glob("*/checkpoints/best.ckpt"))
        if not runs:
            raise console.UserError(
                f"no network trained on {experiment} is there yet: run the stage {experiment!r} first"
            )
        return runs[-1].parents[1]

    def picture(self, name: str, source: "Figure | Path") -> None:
        """Keep a figure or a PNG under ``name``, small enough for a repository: photos as JPEG, plots as PNG."""
        import io

        from PIL import Image

        if isinstance(source, Path):
            image = Image.open(source).convert("RGB")
        else:
            buffer = io.BytesIO()
            source.savefig(buffer, format="png", facecolor="white")
            image = Image.open(buffer).convert("RGB")
        if image.width > WIDEST_PICTURE:
            image = image.resize((WIDEST_PICTURE, round(image.height * WIDEST_PICTURE / image.width)), Image.LANCZOS)
        data = packed(image, name)
        while len(data) > LARGEST_PICTURE:
            image = image.resize((image.width * 9 // 10, image.height * 9 // 10), Image.LANCZOS)
            data = packed(image, name)
        write_whole(self.pictures / name, data)

    def load(self) -> dict[str, Any]:
        """The stored numbers of all stages."""
        return json.loads(self.numbers.read_text(encoding="utf-8")) if self.numbers.is_file() else {}

    def store(self, stage: str, found: dict[str, Any]) -> None:
        """Put a stage's numbers in place of its former ones."""
        everything = self.load() | {stage: rounded(found)}
        text = json.dumps(everything, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        write_whole(self.numbers, text.encode())


def packed(image: Any, name: str) -> bytes:
    """The bytes of a JPEG, or of a PNG of at most 256 colours, as the file's ``name`` says."""
    import io

    buffer = io.BytesIO()
    if name.endswith(".jpg"):
        image.save(buffer, format="jpeg", quality=80, optimize=True)
    else:
        image.quantize(256, method=0, dither=0).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, all of it or nothing; makes the folder."""
    from interpretability.whole_files import whole_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_bytes(data)


def rounded(value: Any, digits: int = 5) -> Any:
    """Plain data with floats of at most so many significant digits: what a reader of the JSON wants to see."""
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    return value


def metrics(printed: str) -> dict[str, float]:
    """The results that a run ends with: ``test/accuracy 0.9912`` and its like, and the seconds it trained."""
    found = {key: float(value) for key, value in re.findall(r"^(\w+/\w+) +(\S+)$", printed, re.MULTILINE)}
    seconds = re.search(r"^trained ([\d.]+) s", printed, re.MULTILINE)
    return found | ({"seconds": float(seconds[1])} if seconds else {})


def spearman(a: "Tensor", b: "Tensor") -> float:
    """Rank correlation of two tensors of one shape."""
    from scipy.stats import spearmanr

    return float(spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic)
