"""On a GPU: attribution against Captum at batches of 1, 16 and 64, and a page; nothing where there is no GPU."""

import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.attribution import SLOWEST, done, methods
from benchmarks.harness import Result, compare
from interpretability import load_model
from interpretability.page import PictureCache, build_page
from lit_models import LitCNN

MEAN, PAGE_SECONDS = 0.5, 10.0


def run(quick: bool, data_dir: Path) -> Iterator[Result]:
    """A row for each method and batch, their geometric mean, and a page in seconds."""
    if not torch.cuda.is_available():
        return
    yield from attributions(quick)
    yield page()


def attributions(quick: bool) -> Iterator[Result]:
    """Every method on `LitCNN`; equality with Captum is checked on the CPU, by the case ``attribution``."""
    torch.manual_seed(0)
    net, results = LitCNN().eval().cuda(), []
    for n in (1,) if quick else (1, 16, 64):
        x, t = torch.rand(n, 1, 28, 28, device="cuda"), torch.arange(n, device="cuda") % 10
        for name, (our, peer) in methods(net).items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = compare(
                    f"{name}, batch {n}",
                    lambda our=our, x=x, t=t: done(our(x, t)),
                    lambda peer=peer, x=x, t=t: done(peer(x, t)),
                    peer_name="captum",
                    bound=SLOWEST,
                    repeats=1 if quick else 15,
                    warmup=2,
                )
            results.append(result)
            yield result
    seconds = ([r.ours_seconds for r in results], [r.peer_seconds for r in results])
    yield Result("geometric mean", "captum", *map(statistics.geometric_mean, seconds), bound=MEAN)


def page() -> Result:
    """A first page of a photo's size on SqueezeNet, nothing in the cache."""
    loaded = load_model("squeezenet1_0", device="cuda")
    image = torch.rand(3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        names = {"model_name": "squeezenet1_0", "image_name": "noise"}
        build_page(loaded.model, image, loaded.class_names, **names, cache=PictureCache(Path(folder)))
        return Result("page of a photo", "ten seconds", time.perf_counter() - start, PAGE_SECONDS, bound=1.0)
