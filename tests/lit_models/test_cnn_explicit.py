"""``LitCNN(gradients="explicit")`` against the same network by autograd, in float64."""

import copy
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from interpretability import PixelModel, Saliency
from interpretability.attribution import METHODS
from lit_models import LitCNN, checks, functional_conv, operations
from oracles import central_differences

pytestmark = pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")

SMALL = {"input_shape": (2, 12, 15), "num_outputs": 4, "channels": (3, 4), "kernel_size": 3, "hidden": 6}
OPTIONS = {
    "plain": {},
    "valid": {"padding": "valid"},
    "batch norm": {"batch_norm": True, "label_smoothing": 0.1},
    "several convolutions": {"convs_per_stage": (2, 1), "batch_norm": True},
    "halved by a convolution": {"downsampling": "convolution", "batch_norm": True},
    "halved by a convolution, valid": {"downsampling": "convolution", "padding": "valid"},
    "dropout": {"dropout": 0.4, "stage_dropout": 0.3},
    "everything": {
        "convs_per_stage": 2,
        "downsampling": "convolution",
        "batch_norm": True,
        "dropout": 0.4,
        "stage_dropout": 0.3,
        "label_smoothing": 0.2,
        "mean": (0.2, 0.4),
        "std": (0.5, 2.0),
    },
    "one stage of five": {"channels": (5,), "kernel_size": 5},
}


def make(kind=LitCNN, **options):
    torch.manual_seed(1)
    model = kind(**{**SMALL, **options}).double()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):  # not the identity that it begins as
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.uniform_(0.5, 2)
    return model


def images(n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 2, 12, 15, dtype=torch.float64, generator=generator), torch.arange(n) % 4


def assert_close(ours, theirs, tolerance=1e-9):
    assert theirs.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", [5, 1])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_and_running_statistics_equal_autograd(name, training, n):
    ours, theirs = make(gradients="explicit", **OPTIONS[name]), make(**OPTIONS[name])
    (x, t), smoothing = images(n), OPTIONS[name].get("label_smoothing", 0.0)
    for model in (ours, theirs):
        model.train(training)
    torch.manual_seed(3)
    loss, gradients = ours.loss_and_gradients(x, t)
    torch.manual_seed(3)
    expected = F.cross_entropy(theirs(x), t, label_smoothing=smoothing)
    assert_close(loss, expected.detach(), 1e-12)
    assert list(gradients) == [name for name, _ in ours.named_parameters()]
    for gradient, e in zip(gradients.values(), torch.autograd.grad(expected, list(theirs.parameters())), strict=True):
        assert not gradient.requires_grad
        assert_close(gradient, e)
    for (key, ours_now), theirs_now in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(ours_now, theirs_now, rtol=1e-12, atol=1e-12, msg=key)
    if OPTIONS[name].get("batch_norm"):
        assert ours.stages[0][1 if "convolution" in name or name == "everything" else 2].num_batches_tracked == training


def test_gradients_equal_central_differences():
    model = make(gradients="explicit", **OPTIONS["halved by a convolution"])
    x, t = images(3)
    _, gradients = model.loss_and_gradients(x, t)
    for name, p in model.named_parameters():
        p.data = p.data.contiguous()  # the differences are taken along a row of values
        expected = central_differences(lambda: model.loss_and_gradients(x, t)[0], p.detach())
        assert (gradients[name] - expected).abs().max() < 1e-6, name


def test_a_corrupted_derivative_is_caught(monkeypatch):
    right = functional_conv.conv_input_backward
    monkeypatch.setattr(functional_conv, "conv_input_backward", lambda dz, cache: 1.0001 * right(dz, cache))
    model, (x, t) = make(gradients="explicit"), images()
    _, gradients = model.loss_and_gradients(x, t)
    expected = torch.autograd.grad(F.cross_entropy(model(x), t), model.stages[0][0].weight)[0]
    with pytest.raises(AssertionError):
        assert_close(gradients["stages.0.0.weight"], expected)


MODULES = {  # kind -> one that takes maps of three channels; by default one without arguments
    nn.Conv2d: lambda: nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 0)),
    nn.Linear: lambda: nn.Sequential(nn.Flatten(), nn.Linear(540, 5), nn.Linear(5, 4, bias=False)),
    nn.BatchNorm2d: lambda: nn.BatchNorm2d(3, momentum=None),
    nn.MaxPool2d: lambda: nn.MaxPool2d(3, 2, 1),
    nn.AvgPool2d: lambda: nn.AvgPool2d((3, 2), 1, 1),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", operations.OPERATIONS, ids=lambda kind: kind.__name__)
def test_every_module_that_has_a_formula_equals_itself(kind, training):
    """Between a convolution below and one activation above: output, every gradient and the state it leaves."""
    below, module = nn.Conv2d(2, 3, 1), MODULES.get(kind, kind)()
    ours = nn.Sequential(below, module, nn.Tanh()).double().train(training)
    theirs = copy.deepcopy(ours)
    links, (x, _) = operations.chain([("net", ours)]), images()
    for step in range(2):
        torch.manual_seed(step)
        with torch.no_grad():
            y, caches = operations.chain_forward(links, x)
        torch.manual_seed(step)
        leaf = x.clone().requires_grad_()
        expected = theirs(leaf)
        assert_close(y, expected.detach(), 1e-12)
    dy = torch.randn(y.shape, dtype=y.dtype)
    names, parameters = zip(*theirs.named_parameters(prefix="net"))
    gradients = operations.chain_backward(dy, links, caches)
    assert list(gradients) == list(names)
    dx, *others = torch.autograd.grad(expected, [leaf, *parameters], dy)
    for gradient, other in zip(gradients.values(), others):
        assert_close(gradient, other, 1e-10)
    assert_close(operations.chain_input_backward(dy, links, caches), dx, 1e-10)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=1e-12, atol=1e-12)


class Sundry(LitCNN):
    """Stages unlike its own: other activations, average pooling, whole maps dropped, a norm that does not train."""

    def __init__(self, **options):
        super().__init__(**options)
        self.stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(2, 3, (3, 2), (2, 1), (1, 0)), nn.BatchNorm2d(3), nn.GELU(), nn.AvgPool2d(2, 1)),
            *(nn.Dropout2d(0.3), nn.BatchNorm2d(3), nn.LeakyReLU(), nn.Conv2d(3, 4, 2, bias=False)),
        )
        self.features[1] = nn.Linear(self.stages(torch.zeros(2, 2, 12, 15)).flatten(1).shape[1], 6)


def test_a_subclass_may_have_any_modules_with_a_formula():
    ours, theirs, (x, t) = make(Sundry, gradients="explicit"), make(Sundry), images()
    for model in (ours, theirs):
        model.stages[2].eval()  # while the network trains
    torch.manual_seed(3)
    loss, gradients = ours.loss_and_gradients(x, t)
    torch.manual_seed(3)
    expected = F.cross_entropy(theirs(x), t)
    assert_close(loss, expected.detach(), 1e-12)
    for name, p in theirs.named_parameters():
        assert_close(gradients[name], torch.autograd.grad(expected, p, retain_graph=True)[0])
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=1e-12, atol=1e-12)
    leaf = x.clone().requires_grad_()
    assert_close(ours.input_gradient(x, 2), torch.autograd.grad(theirs.eval()(leaf)[:, 2].sum(), leaf)[0])


@pytest.mark.parametrize("gradients", ["explicit", "autograd"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
def test_input_gradients_equal_those_of_saliency_by_autograd(name, training, gradients):
    model, (x, t) = make(gradients=gradients, **OPTIONS[name]).train(training), images()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twin = make(**OPTIONS[name])
    twin.input_gradient = None  # whoever asked it for its formulas would fail
    for target in (2, t, None, lambda y: y[:, 0] - y[:, 1] ** 2):
        expected = Saliency(twin)(x, target)
        assert_close(model.input_gradient(x, target), expected)
        assert_close(Saliency(model)(x, target), expected)
        with torch.inference_mode():
            assert_close(model.input_gradient(x, target), expected)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(("gradients", "asked"), [("explicit", 2), ("autograd", 0)])
def test_explanations_ask_for_the_formulas_where_the_network_was_trained_by_them(gradients, asked, monkeypatch):
    calls, right = [], LitCNN.input_gradient
    monkeypatch.setattr(LitCNN, "input_gradient", lambda self, *args: calls.append(1) or right(self, *args))
    model, (x, _) = make(gradients=gradients), images()
    for explained in (model, PixelModel(model)):
        Saliency(explained)(x, 2)
    assert len(calls) == asked


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("Attention")])
def test_every_method_explains_it_as_it_explains_the_network_by_autograd(name):
    maps, layer = [], "stages.1" if METHODS[name].needs_layer else None
    for gradients in ("explicit", "autograd"):
        model = make(gradients=gradients, **OPTIONS["batch norm"]).float().eval()
        x = torch.rand(2, 2, 12, 15, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        maps.append(METHODS[name](model, layer)(x, None))
    assert maps[1].abs().max() > 0
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-3, atol=1e-4 * float(maps[1].abs().max()))


# --- under the Trainer ------------------------------------------------------------------------------------


class Seeded(LitCNN):
    """Dropout masks that depend on the batch alone."""

    def on_train_batch_start(self, batch, batch_idx):
        torch.manual_seed(batch_idx)


def fit(model, data, **options):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    options = {"max_epochs": 2, "precision": "64-true", "accelerator": "cpu", **options}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(logger=False, log_every_n_steps=2, **quiet, **options)
    trainer.fit(model, DataLoader(data, batch_size=None), DataLoader(data[:1], batch_size=None))
    return trainer


CASES = {
    "the recipe of mnist": (OPTIONS["batch norm"] | {"betas": (0.7, 0.9)}, {}, {}),
    "everything": (OPTIONS["everything"] | {"weight_decay": 0.1}, {}, {}),
    "constant rate": ({"schedule": "constant"}, {}, {}),
    "clip by norm": ({}, {"gradient_clip_val": 0.05}, {"gradient_clip_val": 0.05}),
    "clip by value": (
        {"schedule": "constant"},
        {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"},
        {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"},
    ),
    "accumulation": (
        {"batch_norm": True, "dropout": 0.2},
        {"accumulate_grad_batches": 3},
        {"accumulate_grad_batches": 3},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_equal_the_autograd_twin(case):
    options, of_the_model, of_the_trainer = CASES[case]
    data = [images(6, seed) for seed in range(25)]
    ours = make(Seeded, gradients="explicit", learning_rate=0.01, **options, **of_the_model)
    theirs, start = make(Seeded, learning_rate=0.01, **options), make(Seeded, **options)
    explicit, automatic = fit(ours, data), fit(theirs, data, **of_the_trainer)
    assert (
        explicit.global_step
        == automatic.global_step
        == 2 * math.ceil(25 / of_the_model.get("accumulate_grad_batches", 1))
    )
    for (name, p), q, s in zip(ours.state_dict().items(), theirs.state_dict().values(), start.state_dict().values()):
        assert (p - s).abs().max() > 1e-3, name
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9, msg=name)
    logged = {"train/loss", "train/accuracy", "val/loss", "val/accuracy"}
    assert explicit.callback_metrics.keys() == automatic.callback_metrics.keys() >= logged
    for key in logged:
        assert float(explicit.callback_metrics[key]) == pytest.approx(float(automatic.callback_metrics[key]), abs=1e-6)


def test_a_frozen_layer_stays():
    models = [make(gradients="explicit", batch_norm=True, gradient_clip_val=0.1), make(batch_norm=True)]
    data = [images(6, seed) for seed in range(4)]
    for model, options in zip(models, ({}, {"gradient_clip_val": 0.1})):
        model.stages[0].requires_grad_(False)
        fit(model, data, **options)
    assert torch.equal(models[0].stages[0][0].weight, make(batch_norm=True).stages[0][0].weight)
    for p, q in zip(*(model.parameters() for model in models)):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


def test_bf16_mixed_keeps_parameters_gradients_and_loss_in_single_precision():
    seen = []

    class Watched(LitCNN):
        def on_before_optimizer_step(self, optimizer):
            seen.extend(p.grad.dtype for p in self.parameters())

    model = make(Watched, gradients="explicit", batch_norm=True, dropout=0.1, learning_rate=0.02).float()
    data = [(x.float(), t) for x, t in (images(8, seed) for seed in range(10))]
    trainer = fit(model, data, precision="bf16-mixed", max_epochs=3)
    assert set(seen) == {torch.float32} and len(seen) == len(list(model.parameters())) * 30
    assert trainer.callback_metrics["train/loss"].dtype == torch.float32
    assert 0 < trainer.callback_metrics["train/loss"] < math.log(4)


# --- what is refused --------------------------------------------------------------------------------------


def changed(change):
    model = make(gradients="explicit", batch_norm=True)
    change(model)
    return model


class Own(nn.Module):
    def forward(self, x):
        return x


def put(path, module):
    def change(model):
        parent, _, last = path.rpartition(".")
        model.get_submodule(parent)[int(last)] = module

    return change


REFUSED = [
    (put("stages.0.3", Own()), "stages.0.3 is a Own, for which there is no formula; there are: AvgPool2d"),
    (put("stages.0.2", nn.SyncBatchNorm(3)), "stages.0.2 is a SyncBatchNorm, for which there is no formula"),
    (put("stages.1.0", nn.Conv2d(3, 4, 3, groups=1, dilation=2)), "stages.1.0: the formula of Conv2d knows dilation="),
    (put("stages.1.0", nn.Conv2d(3, 4, 3, padding_mode="reflect")), "padding_mode='zeros' only, not 'reflect'"),
    (put("stages.0.1", nn.MaxPool2d(2, ceil_mode=True)), "ceil_mode=False only, not True"),
    (put("stages.0.2", nn.BatchNorm2d(3, affine=False)), "affine=True only, not False"),
    (put("stages.0.2", nn.BatchNorm2d(3, track_running_stats=False)), "track_running_stats=True only, not False"),
    (put("features.1", nn.Linear(48, 7)), r"features.1: rows of 48 features are wanted, not .* \(\d, 36\)"),
    (put("stages.1.0", nn.Conv2d(3, 4, 9)), r"stages.1.0: a kernel of 9×9 does not fit maps of 6×7"),
    (put("stages.1.0", nn.Conv2d(3, 4, 4, padding="same")), "stages.1.0: padding 'same' needs an odd kernel, not 4×4"),
    (
        lambda model: torch.nn.utils.parametrizations.weight_norm(model.features[1]),
        "features.1 is a ParametrizedLinear, for which there is no formula",
    ),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_modules_without_a_formula_are_named(change, message):
    for run in (lambda model: model.loss_and_gradients(*images()), lambda model: fit(model, [images()])):
        with pytest.raises(ValueError, match=message) as refused:
            run(changed(change))
        assert "\n" not in str(refused.value)


def test_a_network_of_another_course_is_refused():
    class Other(LitCNN):
        def embed(self, x):
            return super().embed(x) * 2

    with pytest.raises(ValueError, match=r"Other\.embed is not LitCNN's"):
        fit(make(Other, gradients="explicit"), [images()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradients": "exact"}, "unknown gradients 'exact'; there are: autograd, explicit"),
        ({"gradient_clip_val": 1.0}, "gradient_clip_val of the model is for gradients='explicit'"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches of the model is for gradients='explicit'"),
        ({"gradients": "explicit", "gradient_clip_val": 0.0}, "gradient_clip_val must be positive, got 0.0"),
        ({"gradients": "explicit", "gradient_clip_val": math.nan}, "gradient_clip_val must be positive"),
        ({"gradients": "explicit", "gradient_clip_algorithm": "l1"}, "unknown gradient_clip_algorithm 'l1'"),
        ({"gradients": "explicit", "accumulate_grad_batches": 0}, "accumulate_grad_batches must be in"),
        ({"gradients": "explicit", "accumulate_grad_batches": 1.5}, "accumulate_grad_batches must be whole"),
    ],
)
def test_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LitCNN(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_clip_val": 1.0}, "LitCNN steps by hand: give gradient_clip_val to the model"),
        ({"accumulate_grad_batches": 2}, "model.accumulate_grad_batches"),
        ({"precision": "bf16-true"}, "precision 'bf16-true' is not among LitCNN's"),
    ],
)
def test_what_the_trainer_cannot_do_here_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(make(gradients="explicit"), [images()], **options)


def test_bad_data_is_named_and_nothing_is_updated():
    x, t = images()
    for data, message in (
        ((x[:, :1], t), "do not fit input_shape"),
        ((x, t + 1), "class label 4 is not among the 4 classes"),
        ((x.where(x > 0.1, math.nan), t), "the inputs hold nan at index"),
    ):
        model = make(gradients="explicit")
        with pytest.raises(ValueError, match=message):
            fit(model, [data], num_sanity_val_steps=0)
        assert torch.equal(model.head.weight, make().head.weight)
    with pytest.raises(checks.DivergedError, match="at step 0"):
        fit(make(gradients="explicit", std=1e-300), [(x * 1e300, t)], num_sanity_val_steps=0)
