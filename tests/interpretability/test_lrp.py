"""LRP against dense-matrix replicas, Captum, and what must hold whatever the network."""

import gc
import weakref
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LRP as CaptumLRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet18

from interpretability.attribution import LRP
from interpretability.attribution.operations import Operations, UnsupportedOperation
from interpretability.pixel_model import PixelModel
from relevance_replicas import as_matrix, redistribute

CONSTANTS = {"epsilon": 0.01, "gamma": 0.3, "alpha": 1.7, "beta": 0.7}


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def bias_free() -> nn.Sequential:
    """Overlapping max-pooling, groups, strides, tanh, average pooling; no bias anywhere."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(3, 1, 1),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=False),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(32, 7, bias=False),
        nn.LeakyReLU(),
        nn.Linear(7, 4, bias=False),
    )


class Residual(nn.Module):
    """A functional residual sum, a concatenation, a reused module and an in-place sum."""

    def __init__(self, bias: bool = False):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=bias)
        self.again = nn.Conv2d(4, 4, 3, padding=1, bias=bias)
        self.head = nn.Linear(8, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.first(x))
        b = F.relu(self.again(a) + a, inplace=True)
        c = self.again(b)
        c += b
        return self.head(torch.cat([c.relu_(), b], dim=1).mean(dim=(2, 3)))


# --- rules ------------------------------------------------------------------------------------------------


LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (6,)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=2), (2, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), (4, 5, 4)),
    "conv2d_same": (lambda: nn.Conv2d(2, 3, 3, padding="same", dilation=2), (2, 4, 5)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2, padding=1), (1, 2, 3, 2)),
    "batch_norm": (lambda: nn.BatchNorm2d(3), (3, 2, 3)),
}


@pytest.mark.parametrize("sign", ["signed", "positive"])
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *product((name for name in LAYERS if name != "batch_norm"), ("epsilon", "gamma", "z_plus", "alpha_beta")),
        ("batch_norm", "epsilon"),
    ],
)
def test_each_rule_equals_its_matrix_replica(name, rule, sign):
    make, shape = LAYERS[name]
    layer = make()
    if name == "batch_norm":
        for values in (layer.weight.data, layer.bias.data, layer.running_mean):
            values.normal_()
        layer.running_var.uniform_(0.5, 2)
    x = torch.randn(2, *shape)
    x = x.abs() if sign == "positive" else x
    layer.eval()
    m, b = as_matrix(layer, shape)
    w = torch.randn(3, len(b))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x).flatten(1)

    r = (x.flatten(1) @ m.T + b) * w[0]  # of the score Σ w z
    expected = redistribute(rule, x.flatten(1), m, b, r, **CONSTANTS).view_as(x)
    found = LRP(Model(), rule=rule, **CONSTANTS)(x, lambda z: (z * w[0]).sum(dim=1))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_sums_share_as_linear_layers_do():
    x = torch.randn(3, 2, 4, 4)
    pool = nn.AvgPool2d(2)
    m, b = as_matrix(pool, (2, 4, 4))
    r = x.flatten(1) @ m.T
    expected = redistribute("epsilon", x.flatten(1), m, b, r, **CONSTANTS).view_as(x)
    for spelling in (
        pool,
        lambda x: F.avg_pool2d(x, 2),
        lambda x: x.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5)),
    ):
        found = LRP(Spelled(spelling, flat=True), epsilon=CONSTANTS["epsilon"])(x, lambda z: z.sum(dim=1))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


class Spelled(nn.Module):
    """A model written as a function, with the modules that it uses."""

    def __init__(self, function, *modules: nn.Module, flat: bool = False):
        super().__init__()
        self.function, self.flat = function, flat
        self.used = nn.ModuleList(modules)

    def forward(self, x):
        z = self.function(x)
        return z.flatten(1) if self.flat else z


def test_a_residual_sum_shares_by_size():
    a, b = torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 4.0]])
    found = LRP(Spelled(lambda x: x[:, :2] + x[:, 2:]), epsilon=0)(torch.cat([a, b], dim=1), 1)
    torch.testing.assert_close(found, torch.tensor([[0.0, -1.0, 0.0, 4.0]]))
    found = LRP(Spelled(lambda x: x[:, :2] - 2 * x[:, 2:]), epsilon=0)(torch.cat([a, b], dim=1), 0)
    torch.testing.assert_close(found, torch.tensor([[3.0, 0.0, -2.0, 0.0]]))


# --- conservation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "z_plus", "epsilon_gamma", "epsilon_plus"])
@pytest.mark.parametrize("make", [bias_free, Residual])
def test_relevance_of_a_bias_free_network_sums_to_the_score(make, rule):
    model, x = make(), torch.rand(3, 2, 8, 8)
    score = model.eval()(x)[:, 2]
    found = LRP(model, rule=rule, epsilon=0)(x, 2)
    assert score.abs().min() > 1e-4
    torch.testing.assert_close(found.sum(dim=(1, 2, 3)), score, rtol=1e-9, atol=1e-12)


def test_alpha_beta_conserves_where_both_signs_occur():
    model, x = nn.Sequential(nn.Linear(40, 30, bias=False), nn.ReLU(), nn.Linear(30, 3, bias=False)), torch.randn(4, 40)
    found = LRP(model, rule="alpha_beta", epsilon=0)(x, 1)
    torch.testing.assert_close(found.sum(dim=1), model(x)[:, 1], rtol=1e-9, atol=1e-12)


def test_every_layer_holds_the_whole_score():
    model, x = bias_free(), torch.rand(2, 2, 8, 8)
    score = model.eval()(x)[:, 1]
    for layer in ("0", "1", "2", "3", "5", "8"):
        found = LRP(model, layer, epsilon=0)(x, 1)
        torch.testing.assert_close(found.flatten(1).sum(dim=1), score, rtol=1e-9, atol=1e-12)


def test_resnet_without_biases_conserves_the_score():
    model = resnet18(num_classes=5).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.running_var.uniform_(0.5, 1.5)
    nn.init.zeros_(model.fc.bias)
    x = torch.rand(1, 3, 16, 16)
    found = LRP(model, rule="epsilon_gamma", epsilon=0)(x, 3)
    torch.testing.assert_close(found.sum(dim=(1, 2, 3)), model(x)[:, 3], rtol=1e-9, atol=1e-12)


def test_a_bias_takes_its_share():
    model, x = nn.Linear(3, 2), torch.rand(2, 3)
    found = LRP(model, epsilon=0)(x, 0).sum(dim=1)
    torch.testing.assert_close(found, model(x)[:, 0] - model.bias[0])


# --- Captum -----------------------------------------------------------------------------------------------


class Headed(nn.Module):
    """Layers, ``flatten`` as the function that Captum knows, and a head."""

    def __init__(self, body: nn.Sequential, *head: nn.Module):
        super().__init__()
        self.body, self.head = body, nn.Sequential(*head)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


def with_captum_rule(model: nn.Module, rule) -> CaptumLRP:
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.rule = rule()
        elif isinstance(module, (nn.AvgPool2d, nn.MaxPool2d, nn.BatchNorm2d)):
            module.rule = EpsilonRule(1e-9)
    return CaptumLRP(model)


@pytest.mark.parametrize(
    ("rule", "theirs", "bias"),
    [
        ("epsilon", lambda: EpsilonRule(1e-9), True),
        ("gamma", lambda: GammaRule(0.25), False),  # with a bias Captum leaves γ off it
        ("z_plus", Alpha1_Beta0_Rule, False),  # and keeps a negative one
    ],
)
def test_against_captum(rule, theirs, bias):
    convolutions = [nn.Conv2d(3, 6, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, bias=bias)]
    body = nn.Sequential(*convolutions, nn.ReLU(), nn.AvgPool2d(2))
    model = Headed(body, nn.Linear(32, 10, bias=bias), nn.ReLU(), nn.Linear(10, 4, bias=bias)).eval()
    x = torch.rand(3, 3, 14, 14)
    ours = LRP(model, rule=rule, epsilon=1e-9)(x, 1)
    expected = with_captum_rule(model, theirs).attribute(x.requires_grad_(), target=1).detach()
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)


def test_a_batch_norm_by_itself_against_captum():
    body = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3))
    model = Headed(body, nn.Linear(48, 2))
    for norm in (body[0], body[3]):
        norm.running_mean.normal_()
        norm.bias.data.normal_()
    x = torch.rand(2, 2, 6, 6)
    ours = LRP(model, epsilon=1e-9)(x, 0)
    expected = (
        with_captum_rule(model.eval(), lambda: EpsilonRule(1e-9)).attribute(x.requires_grad_(), target=0).detach()
    )
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)


# --- any spelling of a model ------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "z_plus"])
def test_modules_functions_methods_and_in_place_operations_are_one(rule):
    modules = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    first, second, last = modules[0], modules[2], modules[4]

    def by_hand(x):
        z = torch.addmm(first.bias, x, first.weight.T).clamp(min=0)
        return F.linear((z @ second.weight.T + second.bias).relu(), last.weight, last.bias)

    def in_place(x):
        z = first(x)
        nn.ReLU(inplace=True)(z)  # the result is dropped: z has changed
        z = second(z)
        torch.relu_(z)
        return last(z)

    x = torch.randn(4, 5)
    expected = LRP(modules, rule=rule)(x, 2)
    assert expected.abs().max() > 0.01
    for spelling in (by_hand, in_place):
        torch.testing.assert_close(LRP(Spelled(spelling, modules), rule=rule)(x, 2), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "z_plus", "alpha_beta"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_norm_behind_a_convolution_is_merged_into_it(rule, bias):
    conv, norm, head = nn.Conv2d(2, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.Linear(64, 3)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    fused = fuse_conv_bn_eval(conv.eval(), norm.eval())
    x = torch.randn(2, 2, 6, 6)
    apart = LRP(nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), head), rule=rule)(x, 1)
    merged = LRP(nn.Sequential(fused, nn.ReLU(), nn.Flatten(), head), rule=rule)(x, 1)
    torch.testing.assert_close(apart, merged, rtol=1e-9, atol=1e-10)


def test_a_batch_norm_along_another_axis_is_not_merged():
    """Behind a linear layer on sequences it scales positions, of which there may be as many as features."""
    norm = nn.BatchNorm1d(5, affine=False)
    norm.running_var.uniform_(0.2, 3)
    first, last = nn.Linear(4, 5, bias=False), nn.Linear(25, 3, bias=False)
    model, x = nn.Sequential(first, norm, nn.Flatten(), last).eval(), torch.randn(2, 5, 4)
    expected = model(x)[:, 1].detach()
    assert expected.abs().min() > 1e-3
    found = LRP(model, epsilon=0.0)(x, 1).flatten(1).sum(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_constant_along_another_axis_is_no_bias():
    conv, shift = nn.Conv2d(2, 4, 3, bias=False), torch.randn(4)  # over the columns, as many as channels
    shifted, x = Spelled(lambda x: conv(x) + shift, conv), torch.randn(2, 2, 6, 6)
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, 1, bias=False))
    with torch.no_grad():
        head[1].weight.fill_(1.0)
    found = LRP(nn.Sequential(shifted, head), "0", rule="z_plus")(x, 0)  # the relevance that the sum gets
    (weight,) = conv.parameters()
    signs = [(x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0))]
    total = sum(F.conv2d(part, w) for part, w in signs)
    expected = sum(part * F.conv_transpose2d(found / (total + 1e-6), w) for part, w in signs)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(LRP(nn.Sequential(shifted, head), rule="z_plus")(x, 0), expected, rtol=1e-8, atol=1e-9)


def test_pixels_get_the_relevance_of_their_normalised_values():
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    model = PixelModel(inner, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.1])
    x = torch.rand(2, 3, 6, 6)
    of_pixels = LRP(model, rule="epsilon_plus")(x, 1)
    torch.testing.assert_close(of_pixels, LRP(model, "normalize", rule="epsilon_plus")(x, 1))
    torch.testing.assert_close(of_pixels, LRP(inner, rule="epsilon_plus")(model.normalize(x), 1))


def test_a_batch_is_its_samples():
    model, x = Residual(bias=True), torch.randn(3, 2, 5, 6)
    together = LRP(model, rule="epsilon_gamma")(x, torch.tensor([0, 2, 1]))
    for i, target in enumerate([0, 2, 1]):
        torch.testing.assert_close(together[i : i + 1], LRP(model, rule="epsilon_gamma")(x[i : i + 1], target))


def test_no_input_no_relevance():
    model = bias_free()
    found = LRP(model)(torch.zeros(1, 2, 8, 8), 0)
    assert torch.equal(found, torch.zeros(1, 2, 8, 8))


def test_single_precision_agrees():
    model, x = bias_free(), torch.rand(2, 2, 8, 8)
    exact = LRP(model, rule="epsilon_plus")(x, 0)
    rounded = LRP(model.float(), rule="epsilon_plus")(x.float(), 0)
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-3, atol=1e-5)


# --- errors and state -------------------------------------------------------------------------------------


class Hidden(torch.autograd.Function):
    """An operation of someone else's, invisible to whoever watches torch's functions."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Sorted(nn.Module):
    """An operation without a rule."""

    def forward(self, x):
        return x.sort(dim=1)[0]


def reads_a_view_after_the_change(x):
    z = x * 1
    flat = z.view(-1)
    flat.relu_()
    return z + 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Sorted(), "no rule for sort in Sorted; rules exist for: .*linear"),
        (Spelled(lambda x: torch.einsum("ni,ni,ni->n", x, x, x)), "no rule for einsum of other than two values"),
        (Spelled(lambda x: torch.div(x, x, rounding_mode="floor")), "no rule for a division that rounds"),
        (Spelled(lambda x: F.softmax(x)), "leaves its axis to torch"),
        (Spelled(lambda x: torch.where(x > 0, x, 0.0)), "no rule for gt"),
        (Spelled(lambda x: x.detach() + x), "no rule for detach"),
        (Spelled(lambda x: x / x.sum().item()), "item, which makes a number of what depends on the input"),
        (Spelled(lambda x: torch.mm(input=x.flatten(1), mat2=x.flatten(1).T)), "matmul with its input as a keyword"),
        (Spelled(lambda x: Hidden.apply(x) + 1), "cannot see into .*Hidden.*feeds add"),
        (Spelled(lambda x: Hidden.apply(x + 1)), "cannot see into .*Hidden.*feeds the output"),
        (Spelled(lambda x: F.dropout(x)), "dropout.* is on in eval mode"),
        (Spelled(reads_a_view_after_the_change), "view of a tensor that was changed in place"),
        (Spelled(lambda x: F.batch_norm(x, None, None, training=True)), "without running statistics"),
    ],
)
def test_what_has_no_rule_is_named(model, message):
    with pytest.raises(UnsupportedOperation, match=message):
        LRP(model.double())(torch.rand(2, 4), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "epsilon_pluss"}, "epsilon_plus"),
        ({"epsilon": -1.0}, "epsilon must be at least 0"),
        ({"gamma": float("nan")}, "gamma"),
        ({"alpha": 2.0, "beta": 0.5}, "alpha − beta must be 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LRP(nn.Linear(2, 2), **options)


def test_the_model_is_left_as_it_was_also_after_an_error():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), Sorted()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UnsupportedOperation):
        LRP(model, "0")(torch.rand(2, 4), 0)
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_pass_leaves_nothing_behind(monkeypatch):
    passes = []
    enter = Operations.__enter__
    monkeypatch.setattr(Operations, "__enter__", lambda self: passes.append(weakref.ref(self)) or enter(self))
    gc.collect()
    gc.disable()
    try:
        LRP(Residual())(torch.rand(1, 2, 6, 6), 0)
        assert len(passes) == 1 and passes[0]() is None  # freed without the garbage collector's help
    finally:
        gc.enable()


def test_inside_inference_mode():
    model, x = bias_free(), torch.rand(1, 2, 8, 8)
    expected = LRP(model)(x, 0)
    with torch.inference_mode():
        torch.testing.assert_close(LRP(model)(x, 0), expected)


@pytest.mark.cuda
def test_on_cuda():
    model, x = Residual(bias=True), torch.rand(2, 2, 6, 6)
    expected = LRP(model, rule="epsilon_plus")(x, 0)
    found = LRP(model.cuda(), rule="epsilon_plus")(x.cuda(), 0)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-9)


def test_a_model_that_returns_a_dictionary_is_named_as_such():
    class Named(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x)}

    with pytest.raises(TypeError, match="logits as one tensor; it returned dict"):
        LRP(Named(3, 2))(torch.rand(1, 3), 0)
