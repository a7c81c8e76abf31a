"""Fixtures that several packages' tests share.

Tests on real data look for it in ``$BACKLIT_SHARED``, else in ``../shared`` beside the checkout, and skip
with a reason where it is missing. ``BACKLIT_REQUIRE=real_data,browser`` turns such a skip into a failure.
"""

import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors; the tests' processes share the cores instead

import pytest
import torch

from promises import pytest_addoption, pytest_configure, record_promise  # noqa: F401  (hooks and a fixture)

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("BACKLIT_SHARED", ROOT.parent / "shared"))


def missing(kind: str, reason: str) -> None:
    """Skip for want of ``kind``, or fail where it was said to be required."""
    if kind in os.environ.get("BACKLIT_REQUIRE", "").split(","):
        pytest.fail(f"{kind} is required here: {reason}")
    pytest.skip(reason)


def shared_file(*parts: str) -> Path:
    """A file of real data, or a skip that names it."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        missing("real_data", f"{path} is not there (set BACKLIT_SHARED)")
    return path


@pytest.fixture(scope="session")
def mnist_dir(tmp_path_factory) -> Path:
    """A writable ``data_dir`` with the real MNIST files."""
    source = shared_file("data", "MNIST")
    target = tmp_path_factory.mktemp("data")
    shutil.copytree(source, target / "MNIST")
    for path in [target / "MNIST", *(target / "MNIST").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


@pytest.fixture(scope="session")
def squeezenet_weights() -> Path:
    """The real ImageNet weights of SqueezeNet 1.0."""
    return shared_file("data", "squeezenet1_0_imagenet.pt")


@pytest.fixture(scope="session")
def dog_cat_image() -> Path:
    """The photo with a dog and a cat."""
    return shared_file("data", "images", "dog_cat.png")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium browser."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        missing("browser", "no Chromium on this machine")
    return str(path)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``cuda`` need a device."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        missing("cuda", "no CUDA device")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)
