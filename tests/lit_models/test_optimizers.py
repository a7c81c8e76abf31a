"""The update rules against `torch.optim`, in float64, over 200 steps."""

import copy
import io

import pytest
import torch

from lit_models import SGD, Adam, AdamW

CASES = {
    "sgd": (SGD, torch.optim.SGD, {"lr": 0.05}),
    "momentum": (SGD, torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}),
    "nesterov": (SGD, torch.optim.SGD, {"lr": 0.02, "momentum": 0.8, "nesterov": True}),
    "adam": (Adam, torch.optim.Adam, {"lr": 0.01}),
    "adam options": (Adam, torch.optim.Adam, {"lr": 0.01, "betas": (0.7, 0.95), "eps": 1e-3}),
    "adamw": (AdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (4,), (1,), (2, 2, 2)]
    return [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]


def run(optimizer, params, steps, first=0):
    """Follow a rough, moving landscape; the gradient depends on the step, so that order matters."""
    for step in range(first, first + steps):
        for i, p in enumerate(params):
            p.grad = torch.sin(3 * p.detach() + step) + 0.1 * (i + 1) * p.detach()
        optimizer.step()


def assert_same(ours, theirs, tolerance=1e-10):
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_follows_torch(case):
    make, oracle, options = CASES[case]
    ours, theirs, start = parameters(), parameters(), parameters()
    run(make(ours, **options), ours, 200)
    run(oracle(theirs, **options), theirs, 200)
    assert all((a - b).abs().min() > 1e-3 for a, b in zip(ours, start))
    assert_same(ours, theirs)


@pytest.mark.parametrize("case", CASES)
def test_goes_on_from_a_checkpoint_of_torch_or_its_own(case):
    """Half of the way by torch or ours, through a file, the other half by ours."""
    make, oracle, options = CASES[case]
    expected = parameters()
    run(oracle(expected, **options), expected, 60)
    for first in (oracle, make):
        params = parameters()
        optimizer = first(params, **options)
        run(optimizer, params, 30)
        buffer = io.BytesIO()
        torch.save(optimizer.state_dict(), buffer)
        buffer.seek(0)
        resumed = make(params, **options)
        resumed.load_state_dict(torch.load(buffer, weights_only=True))
        run(resumed, params, 30, first=30)
        assert_same(params, expected)


def test_a_copy_goes_on_alone():
    params = parameters()
    optimizer = Adam(params)
    run(optimizer, params, 5)
    twin_params, twin = copy.deepcopy((params, optimizer))
    twin.param_groups[0]["params"] = twin_params
    before = [p.clone() for p in params]
    run(twin, twin_params, 5, first=5)
    assert_same(params, before, 0)
    assert all((a - b).abs().max() > 0 for a, b in zip(twin_params, params))


def test_parameters_without_a_gradient_stay():
    params = parameters()
    optimizer = AdamW(params, lr=0.1)
    before = params[1].clone()
    for p in (params[0], *params[2:]):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(params[1], before) and not torch.equal(params[0], parameters()[0])


def test_groups_and_hooks_and_closures():
    ours, theirs = parameters(), parameters()
    for params, make in ((ours, AdamW), (theirs, torch.optim.AdamW)):
        groups = [{"params": params[:2], "weight_decay": 0.3}, {"params": params[2:], "lr": 0.2, "weight_decay": 0.0}]
        run(make(groups, lr=0.01), params, 20)
    assert_same(ours, theirs)

    optimizer, calls = Adam(ours), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    assert optimizer.step(lambda: calls.append("closure") or 7) == 7
    assert calls == ["before", "closure", "after"]


def test_a_schedule_moves_the_rate():
    ours, theirs = parameters(), parameters()
    for params, make in ((ours, Adam), (theirs, torch.optim.Adam)):
        optimizer = make(params, lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        for step in range(9):
            run(optimizer, params, 1, first=step)
            schedule.step()
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (SGD, {"lr": -0.1}, "lr must be in"),
        (SGD, {"momentum": 1.0}, "momentum must be in"),
        (SGD, {"nesterov": True}, "nesterov needs"),
        (Adam, {"betas": (1.0, 0.9)}, r"betas\[0\]"),
        (AdamW, {"weight_decay": -1.0}, "weight_decay must be"),
        (Adam, {"lr": float("nan")}, "lr must be in"),
    ],
)
def test_refuses(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(parameters(), **options)


def test_refuses_a_group_of_two_dtypes():
    params = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2).double())]
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="dtype"):
        Adam(params).step()


@pytest.mark.cuda
def test_follows_its_parameters_to_another_device():
    ours, expected = parameters(), parameters()
    run(Adam(expected), expected, 20)
    optimizer = Adam(ours)
    run(optimizer, ours, 10)
    for p in ours:
        p.data = p.data.cuda()
        p.grad = None
    optimizer.load_state_dict(optimizer.state_dict())
    run(optimizer, ours, 10, first=10)
    assert_same([p.cpu() for p in ours], expected)
