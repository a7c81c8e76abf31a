"""Where commands compute, and what a deterministic run says of operations that are not; on a CPU, as far as it goes."""

import warnings

import pytest
import torch

import console
import devices
from training.determinism import default_for, exceptions_named


@pytest.fixture
def cards(monkeypatch):
    """Torch as on a machine with so many CUDA devices, of which the first is the current one."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    return pretend


@pytest.mark.parametrize(
    ("count", "name", "device"),
    [(0, "auto", "cpu"), (2, "auto", "cuda:0"), (2, "cpu", "cpu"), (2, "cuda", "cuda:0"), (2, "cuda:1", "cuda:1")],
)
def test_the_device_is_what_was_asked_for(cards, count, name, device):
    cards(count)
    assert devices.chosen(name) == torch.device(device)


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [
        (0, "cuda", "--device cuda: there is no CUDA device that this torch can use; try --device cpu"),
        (1, "cuda:1", "--device cuda:1: there is no such device, only cuda:0"),
        (4, "cuda:7", "--device cuda:7: there is no such device, only cuda:0 to cuda:3"),
        (1, "gpu", "--device must be auto, cpu, cuda or cuda:N; got 'gpu'"),
        (1, "cuda:-1", "--device must be auto, cpu, cuda or cuda:N; got 'cuda:-1'"),
    ],
)
def test_a_device_that_is_not_there_is_told_in_a_line(cards, count, name, message):
    cards(count)
    with pytest.raises(console.UserError) as error:
        devices.chosen(name)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("count", "accelerator", "default"),
    [(0, "auto", None), (1, "auto", "warn"), (1, "gpu", "warn"), (1, "cuda", "warn"), (1, "cpu", None)],
)
def test_training_is_deterministic_by_default_where_it_runs_on_a_gpu(cards, count, accelerator, default):
    cards(count)
    assert default_for(accelerator) == default


@pytest.fixture
def deterministic():
    """Switch torch's determinism on, with or without exceptions; off again afterwards."""
    yield lambda warn_only: torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.use_deterministic_algorithms(False)


def not_deterministic():
    """``put_`` has no deterministic implementation on any device."""
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)


def test_an_operation_without_a_deterministic_implementation_is_named_once(deterministic, capsys):
    deterministic(warn_only=True)
    with warnings.catch_warnings(), exceptions_named():
        not_deterministic()
        not_deterministic()
    note = capsys.readouterr().err
    assert note.count("\n") == 1 and note.startswith("note: put_ has no deterministic implementation")
    assert "--trainer.deterministic false" in note


def test_without_exceptions_it_ends_the_run_in_a_line(deterministic):
    deterministic(warn_only=False)
    message = "put_ has no deterministic implementation; --trainer.deterministic false gives up"
    with pytest.raises(console.UserError, match=message), warnings.catch_warnings(), exceptions_named():
        not_deterministic()


def test_other_warnings_and_errors_pass(recwarn):
    with pytest.raises(RuntimeError, match="of another kind"), exceptions_named():
        warnings.warn("something else", UserWarning, stacklevel=1)
        raise RuntimeError("of another kind")
    assert [str(one.message) for one in recwarn] == ["something else"]
