"""Devices, precision and memory, as far as a machine without a GPU can tell; the rest is in test_cuda.py."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from attribution_networks import Residual, randomised
from interpretability import METHODS, devices
from interpretability.attribution.batches import fastest_rows
from interpretability.evaluation import measures
from interpretability.layers import evaluating

NEWER = hasattr(torch.backends.cudnn, "conv")  # a precision for each backend and operation


def switches():
    """Every switch that says how float32 is computed; a word for one that cannot be read."""
    found = {}
    for name, read in {
        "matmul": torch.get_float32_matmul_precision,
        "cudnn": lambda: torch.backends.cudnn.allow_tf32,
        "cuda": lambda: torch.backends.cuda.matmul.allow_tf32,
        **{
            f"{backend}.{operation}": lambda b=backend, o=operation: (
                getattr(getattr(torch.backends, b), o).fp32_precision
            )
            for backend in ("cudnn", "mkldnn")
            for operation in ("conv", "rnn", "matmul")
            if NEWER and (backend, operation) != ("cudnn", "matmul")
        },
    }.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "mixed"
    return found


def older_switches(precision, cudnn):
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = cudnn


def newer_switches(backend, operation, precision):
    getattr(getattr(torch.backends, backend), operation).fp32_precision = precision


SETTINGS = {
    "as torch starts": lambda: None,
    "TF32 everywhere": lambda: older_switches("high", True),
    "bfloat16": lambda: older_switches("medium", True),
    "off already": lambda: older_switches("highest", False),
}
if NEWER:
    SETTINGS |= {
        "the newer switch of cuDNN": lambda: newer_switches("cudnn", "conv", "ieee"),
        "the newer switch of oneDNN": lambda: newer_switches("mkldnn", "conv", "bf16"),
    }


@pytest.fixture
def restored():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    newer = [(b, o, switches()[f"{b}.{o}"]) for b, o in (("cudnn", "conv"), ("mkldnn", "conv")) if NEWER]
    yield
    older_switches(*before)
    for backend, operation, precision in newer:
        newer_switches(backend, operation, precision)


@pytest.mark.parametrize("name", SETTINGS)
def test_evaluating_computes_in_single_precision_and_leaves_the_switches_as_they_were(name, restored):
    SETTINGS[name]()
    before = switches()
    with pytest.raises(KeyError), evaluating(nn.Linear(1, 1)), evaluating(nn.Linear(1, 1)):
        inside = switches()
        raise KeyError
    assert inside["cuda"] is False and inside["matmul"] == "highest"
    assert inside["cudnn"] in (False, "mixed")
    assert all(value == "ieee" for switch, value in inside.items() if "." in switch)
    assert switches() == before


@dataclass
class Pair:
    first: torch.Tensor
    name: str


def test_tensors_go_to_the_models_device_and_what_comes_back_to_that_of_x(monkeypatch):
    seen = []

    @devices.on_models_device
    def function(model, x, target=None, scale=1.0):
        seen.append((x.device.type, target.device.type, scale))
        return {"both": [Pair(torch.ones(2), "a"), (torch.zeros(1), 3)]}

    x, target = torch.ones(2), torch.zeros(2)
    function(nn.Linear(1, 1), x, target)
    monkeypatch.setattr(devices, "device_of", lambda model: torch.device("meta"))
    monkeypatch.setattr(devices, "moved", lambda value, device: (value, device))
    result, origin = function(nn.Linear(1, 1), x, target=target, scale=2.0)
    assert seen == [("cpu", "cpu", 1.0), ("meta", "meta", 2.0)]
    assert origin == torch.device("cpu") and result["both"][1][1] == 3


def test_every_tensor_in_a_result_is_moved():
    value = {"both": [Pair(torch.ones(2), "a"), (torch.zeros(1), 3)]}
    pair, (alone, number) = devices.moved(value, torch.device("meta"))["both"]
    assert pair.first.is_meta and pair.name == "a" and alone.is_meta and number == 3
    assert not value["both"][0].first.is_meta


def test_portions_are_halved_when_memory_runs_out_and_nothing_is_lost_or_done_twice():
    tried = []

    def evaluate(part):
        tried.append(part.stop - part.start)
        if part.stop - part.start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(part.start, part.stop))

    found = list(devices.in_portions(11, 8, evaluate))
    assert [index for part in found for index in part] == list(range(11))
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_memory_errors_of_every_kind_are_known_and_the_last_one_is_told(error):
    def evaluate(part):
        raise error

    assert devices.is_out_of_memory(error)
    with pytest.raises(type(error)):
        list(devices.in_portions(4, 4, evaluate))


def test_other_errors_are_not_tried_again():
    tried = []

    def evaluate(part):
        tried.append(part)
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        list(devices.in_portions(4, 4, evaluate))
    assert len(tried) == 1


class Small(Residual):
    """A network whose memory ends at seven rows."""

    def forward(self, x):
        if len(x) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


OPTIONS = {
    "IntegratedGradients": {"n_steps": 9},
    "SmoothGrad": {"n_samples": 9},
    "VarGrad": {"n_samples": 9},
    "Occlusion": {"window": 3, "stride": 1},
    "ScoreCAM": {"layer": "conv"},
    "LayerConductance": {"layer": "conv", "n_steps": 9},
}


@pytest.mark.filterwarnings("ignore:integrated gradients miss")
@pytest.mark.parametrize("name", OPTIONS)
def test_methods_give_the_same_with_less_memory(name):
    model, x = randomised(Residual()), torch.rand(2, 3, 9, 7, dtype=torch.float64)
    small = Small().double()
    small.load_state_dict(model.state_dict())
    expected = METHODS[name](model, **OPTIONS[name])(x, 1)
    with pytest.raises(torch.OutOfMemoryError):
        small(torch.cat([x] * 4))
    found = METHODS[name](small, **OPTIONS[name])(x, 1)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_measures_give_the_same_with_less_memory():
    model, x = randomised(Residual()), torch.rand(2, 3, 9, 7, dtype=torch.float64)
    small = Small().double()
    small.load_state_dict(model.state_dict())
    order = torch.rand(2, 63).argsort(1)
    masks = torch.rand(12, 9, 7) > 0.5
    for one in (
        lambda net: measures.perturbation_curve(net, x, 1, order),
        lambda net: measures.perturbed_scores(net, x, 1, masks, torch.zeros_like(x)),
    ):
        torch.testing.assert_close(one(small), one(model), rtol=1e-10, atol=1e-14)


def test_a_gpu_is_given_more_rows_than_a_cpu():
    digits, photos = 28 * 28, 3 * 224 * 224
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert [fastest_rows(cpu, values) for values in (digits, photos)] == [80, 16]
    assert fastest_rows(cuda, digits) >= 3200 and fastest_rows(cuda, photos) >= 200
