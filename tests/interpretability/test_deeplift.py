"""DeepLift against closed forms, a loop replica of max-pooling, Captum, and the sum that it promises."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import DeepLift as CaptumDeepLift
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from interpretability import load_model
from interpretability.attribution import DeepLift
from interpretability.attribution.operations import UnsupportedOperation
from interpretability.gradients import input_gradient
from interpretability.images import load_image


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Spelled(nn.Module):
    """A model written as a function, with the modules that it uses."""

    def __init__(self, function, *modules: nn.Module):
        super().__init__()
        self.function, self.used = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x)


def difference(model: nn.Module, x: Tensor, baseline: Tensor, target: int) -> Tensor:
    model.eval()
    with torch.no_grad():
        return (model(x) - model(baseline.expand_as(x)))[:, target]


def overlapping() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=1, padding=1, dilation=1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Tanh(),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(64, 5),
    )


# --- the sum ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [None, "0", "2", "3", "6"])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_sum_is_the_difference_from_the_baseline(rows, layer):
    model, x, baseline = overlapping(), torch.randn(3, 2, 8, 8), torch.randn(rows, 2, 8, 8)
    expected = difference(model, x, baseline, 2)
    found = DeepLift(model, layer, baseline=baseline)(x, 2)
    assert expected.abs().min() > 1e-3
    torch.testing.assert_close(found.flatten(1).sum(dim=1), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (nn.MaxPool1d(3, 1, padding=1), (2, 9)),
        (nn.MaxPool2d((3, 2), (1, 2), dilation=(2, 1)), (2, 7, 6)),
        (nn.MaxPool3d(2, 1), (1, 3, 4, 3)),
        (nn.AdaptiveMaxPool2d((3, 2)), (2, 7, 5)),
        (lambda x: torch.max_pool2d(x, [3, 3], [1, 1]), (2, 5, 6)),
        (lambda x: F.adaptive_max_pool1d(x, 4), (2, 7)),
    ],
)
def test_every_max_pooling_keeps_the_sum(pool, shape):
    x, baseline = torch.randn(3, *shape), torch.randn(3, *shape)
    weights = torch.randn(pool(x).flatten(1).shape[1])
    model = Spelled(lambda x: pool(x).flatten(1))
    found = DeepLift(model, baseline=baseline)(x, lambda z: z @ weights)
    expected = (pool(x) - pool(baseline)).flatten(1) @ weights
    torch.testing.assert_close(found.flatten(1).sum(dim=1), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2])
def test_a_batch_norm_behind_another_operation_keeps_the_sum(n):
    norm, head = nn.BatchNorm2d(3), nn.Linear(3, 2)
    norm.running_var.uniform_(0.5, 2)
    norm.weight.data.normal_()
    model = Spelled(lambda x: head(norm(F.max_pool2d(x, 2).sigmoid()).mean((2, 3))), norm, head)
    x = torch.randn(n, 3, 6, 6)
    expected = difference(model, x, torch.full((1, 3, 6, 6), 0.3), 1)
    assert expected.abs().min() > 1e-6
    found = DeepLift(model, baseline=0.3)(x, 1)  # 0.3 in the precision of x
    torch.testing.assert_close(found.flatten(1).sum(dim=1), expected, rtol=1e-9, atol=1e-12)


def test_a_model_that_folds_samples_is_run_at_a_baseline_for_each():
    head = nn.Linear(4, 2)
    model = Spelled(lambda x: head(x.reshape(-1, 2).tanh().reshape(-1, 4)), head)
    x, baseline = torch.randn(3, 4), torch.full((3, 4), 0.1)
    found = DeepLift(model, baseline=0.1)(x, 0)
    torch.testing.assert_close(found, DeepLift(model, baseline=baseline)(x, 0))
    torch.testing.assert_close(found.sum(dim=1), difference(model, x, baseline, 0), rtol=1e-9, atol=1e-12)


def test_a_model_whose_shapes_follow_values_is_refused():
    model = Spelled(lambda x: x.repeat(1, 2).tanh()[:, :2] if x.shape[0] else x)
    sizes = iter([1, 2, 1, 2])
    varying = Spelled(lambda x: model(x.repeat(1, next(sizes))))
    with pytest.raises(
        UnsupportedOperation, match=r"cannot compare tanh at x with the baseline, \(2, 16\) and \(2, 8\)"
    ):
        DeepLift(varying)(torch.randn(2, 4), 0)


def test_captum_misses_the_sum_where_windows_overlap():
    model = nn.Sequential(nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(36, 2)).eval()
    x, baseline = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
    expected = difference(model, x, baseline, 1)
    ours = DeepLift(model, baseline=baseline)(x, 1).sum(dim=(1, 2, 3))
    theirs = CaptumDeepLift(nn.Sequential(nn.Identity(), *model)).attribute(x, baseline, target=1).sum(dim=(1, 2, 3))
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    assert (theirs - expected).abs().max() > 0.05


@pytest.mark.real_data
def test_the_sum_holds_on_squeezenet_with_its_overlapping_pools(squeezenet_weights, dog_cat_image):
    model = load_model("squeezenet1_0", squeezenet_weights).model.double()
    x = load_image(dog_cat_image).double()[None]
    expected = difference(model, x, torch.zeros_like(x), 243)  # bull mastiff
    found = DeepLift(model)(x, 243)
    assert expected.abs() > 1
    torch.testing.assert_close(found.sum(dim=(1, 2, 3)), expected, rtol=1e-9, atol=0)


def test_gates_keep_the_sum():
    model = nn.Sequential(SqueezeExcitation(4, 2), nn.Hardswish(inplace=True), nn.Flatten(), nn.Linear(36, 3))
    x, baseline = torch.randn(2, 4, 3, 3), torch.randn(1, 4, 3, 3)
    found = DeepLift(model, baseline=baseline)(x, 0)
    torch.testing.assert_close(found.sum(dim=(1, 2, 3)), difference(model, x, baseline, 0), rtol=1e-9, atol=1e-12)


# --- the multipliers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [torch.tanh, F.softplus, F.gelu, torch.sigmoid, F.relu])
def test_the_rescale_rule_in_closed_form(activation):
    first, last = nn.Linear(4, 6), nn.Linear(6, 3)
    x, baseline = torch.randn(5, 4), torch.randn(1, 4)
    z, z0 = first(x), first(baseline)
    slope = (activation(z) - activation(z0)) / (z - z0)
    expected = ((slope * last.weight[1]) @ first.weight) * (x - baseline)
    found = DeepLift(Spelled(lambda x: last(activation(first(x))), first, last), baseline=baseline)(x, 1)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-12)


def test_a_linear_model_is_weight_times_difference():
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    found = DeepLift(model, baseline=torch.ones(4))(x, torch.tensor([2, 0]))
    torch.testing.assert_close(found, (model.weight[[2, 0]] * (x - 1)).detach())


def test_changes_that_cancel_are_passed_on_by_the_derivative():
    found = DeepLift(Spelled(lambda x: 3 * torch.tanh(x.sum(dim=1, keepdim=True))))(torch.tensor([[2.0, -2.0]]), 0)
    torch.testing.assert_close(found, torch.tensor([[6.0, -6.0]]))


def test_max_pooling_equals_its_loop_replica():
    x, baseline, weights = torch.randn(1, 1, 9), torch.randn(1, 1, 9), torch.randn(7)
    expected = torch.zeros(9)
    for j in range(7):
        window, window0 = x[0, 0, j : j + 3], baseline[0, 0, j : j + 3]
        change = window.max() - window0.max()
        place = j + int((window if change >= 0 else window0).argmax())
        expected[place] += weights[j] * change
    found = DeepLift(Spelled(lambda x: F.max_pool1d(x, 3, 1).flatten(1)), baseline=baseline)(x, lambda z: z @ weights)
    torch.testing.assert_close(found[0, 0], expected)


def test_at_the_baseline_multipliers_are_the_gradient_and_attributions_zero():
    model, x = overlapping(), torch.randn(2, 2, 8, 8)
    assert torch.equal(DeepLift(model, baseline=x)(x, 1), torch.zeros_like(x))
    near = x + 1e-9  # so little that every slope is the derivative
    expected = input_gradient(model, x, 1)
    torch.testing.assert_close(DeepLift(model, baseline=x)(near, 1) / (near - x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU])
def test_against_captum(activation):
    layers = [nn.Conv2d(2, 4, 3), activation(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), activation(), nn.AvgPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 8), activation(), nn.Linear(8, 3)).eval()
    x, baseline = torch.randn(3, 2, 14, 14), torch.randn(3, 2, 14, 14)
    expected = CaptumDeepLift(model).attribute(x, baseline, target=1).detach()
    assert expected.abs().max() > 1e-5
    torch.testing.assert_close(DeepLift(model, baseline=baseline)(x, 1), expected, rtol=1e-8, atol=1e-10)


def test_reused_functional_and_in_place_activations_are_right():
    linear, last = nn.Linear(5, 5), nn.Linear(5, 3)
    relu = nn.ReLU(inplace=True)

    def reused(x):
        return last(relu(linear(relu(linear(x)))))

    def written_out(x):
        return last(linear(linear(x).clamp(min=0)).relu_())

    x, baseline = torch.randn(3, 5), torch.randn(5)
    chain = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), last)
    chain[0].load_state_dict(linear.state_dict())
    chain[2].load_state_dict(linear.state_dict())
    expected = DeepLift(chain, baseline=baseline)(x, 1)
    assert expected.abs().max() > 0.01
    for function in (reused, written_out):
        torch.testing.assert_close(DeepLift(Spelled(function, linear, last, relu), baseline=baseline)(x, 1), expected)


def test_a_batch_is_its_samples():
    model, x = overlapping(), torch.randn(3, 2, 8, 8)
    together = DeepLift(model, baseline=0.3)(x)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], DeepLift(model, baseline=0.3)(x[i : i + 1]))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), Spelled(lambda x: x.sort()[0])), "sort in Spelled; rules exist for: linear"),
        (Spelled(lambda x: torch.einsum("ni,ni,ni->n", x, x, x)), "einsum of more than two values"),
        (Spelled(lambda x: torch.div(x, x, rounding_mode="floor")), "no rule for a division that rounds"),
        (Spelled(lambda x: x * x.mean().item()), "item, which makes a number of what depends on the input"),
        (Spelled(lambda x: x * float(x.mean())), "float, which makes a number"),
        (Spelled(lambda x: torch.mm(input=x.flatten(1), mat2=x.flatten(1).T)), "matmul with its input as a keyword"),
        (Spelled(lambda x: torch.where(x > 0, x, 0.0)), "no rule for gt"),
        (Spelled(lambda x: F.max_pool1d(x, 2, return_indices=True)[0]), "max_pool1d.* indices"),
        (Spelled(lambda x: x.relu() if x.sum() else x.tanh()), "same operations at x and at the baseline"),
    ],
)
def test_what_has_no_rule_is_named(model, message):
    with pytest.raises(UnsupportedOperation, match=message):
        DeepLift(model.double())(torch.rand(2, 4), 0)


def test_a_baseline_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"baseline \(3,\) does not fit"):
        DeepLift(nn.Linear(4, 2), baseline=torch.zeros(3))(torch.rand(2, 4), 0)


@pytest.mark.cuda
def test_on_cuda():
    model, x = overlapping(), torch.randn(2, 2, 8, 8)
    expected = DeepLift(model)(x, 1)
    torch.testing.assert_close(DeepLift(model.cuda())(x.cuda(), 1).cpu(), expected, rtol=1e-6, atol=1e-9)
