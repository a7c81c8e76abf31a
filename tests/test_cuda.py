"""On a GPU: the same explanations as on a CPU, in full precision, whatever device the images lie on."""

import pytest
import torch
from torch import nn

from attribution_networks import Residual, randomised
from conftest import shared_file
from interpretability import (
    METHODS,
    channel,
    deepfool,
    fgsm,
    layer_gradient,
    load_model,
    pgd,
    visualize,
)
from interpretability.attribution.attention import AttentionMethod
from interpretability.building_blocks import neuron_groups, semantic_dictionary, spatial_attribution
from interpretability.evaluation import Explainer, Settings, evaluate
from interpretability.layers import evaluating
from interpretability.page import PageOptions, PictureCache, build_page
from lit_models import LitCNN

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore:integrated gradients miss")]

NETWORKS = {"Residual": (lambda: randomised(Residual()), (3, 9, 7), "conv"),
            "LitCNN": (lambda: LitCNN(channels=(4, 6), hidden=16).double(), (1, 28, 28), "stages.1")}  # fmt: skip
OPTIONS = {"Occlusion": {"window": 3, "stride": 2}}


@pytest.fixture(params=NETWORKS)
def both(request):
    """The same network on CPU and GPU, images, and a layer."""
    make, shape, layer = NETWORKS[request.param]
    torch.manual_seed(0)
    cpu = make().eval()
    cuda = make().eval()
    cuda.load_state_dict(cpu.state_dict())
    return cpu, cuda.cuda(), torch.rand(3, *shape, dtype=torch.float64), layer


@pytest.mark.parametrize("name", [name for name in METHODS if not issubclass(METHODS[name], AttentionMethod)])
def test_methods_agree_with_the_cpu_whatever_device_the_images_are_on(name, both):
    cpu, cuda, x, layer = both
    layer = layer if METHODS[name].needs_layer else None
    targets = torch.tensor([1, 0, 1])
    options = OPTIONS.get(name, {})
    try:
        expected = METHODS[name](cpu, layer, **options)(x, targets)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)[:20]):
            METHODS[name](cuda, layer, **options)(x, targets)
        return
    from_cpu = METHODS[name](cuda, layer, **options)(x, targets)
    from_cuda = METHODS[name](cuda, layer, **options)(x.cuda(), targets.cuda())
    assert expected.abs().max() > 0
    assert from_cpu.device.type == "cpu" and from_cuda.device.type == "cuda"
    scale = float(expected.abs().max())
    torch.testing.assert_close(from_cpu, expected, rtol=0, atol=1e-10 * scale)
    torch.testing.assert_close(from_cuda.cpu(), expected, rtol=0, atol=1e-10 * scale)


def test_everything_else_takes_images_from_the_cpu(both):
    cpu, cuda, x, layer = both
    labels = torch.tensor([1, 0, 1])
    for function in (
        lambda net: fgsm(net, x, labels, 0.05),
        lambda net: pgd(net, x, labels, 0.05, steps=3),
        lambda net: deepfool(net, x, steps=2),
        lambda net: layer_gradient(net, layer, x, 1)[1],
        lambda net: spatial_attribution(net, layer, x, 1),
        lambda net: semantic_dictionary(net, layer, x, 2).activations,
        lambda net: neuron_groups(net, layer, x.clamp(min=0), 2).places.sum((1, 2, 3)),
    ):
        expected, found = function(cpu), function(cuda)
        assert found.device.type == "cpu" and expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_evaluation_agrees_with_the_cpu(both):
    cpu, cuda, x, _ = both
    settings = Settings(n_steps=4, n_squares=4, n_noises=1, n_stages=2)
    found = []
    for net in (cpu, cuda):
        saliency = METHODS["Saliency"](net)
        explainer = Explainer("Saliency", saliency, "gradient", None)
        found.append(evaluate(net, [explainer], x, torch.tensor([1, 0, 1]), settings))
    for measure, expected in found[0].values["Saliency"].items():
        values = found[1].values["Saliency"][measure]
        assert values.device.type == "cpu"
        torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-8, equal_nan=True)


BOUNDS = {"Saliency": 5e-3, "IntegratedGradients": 5e-3, "LRP": 2e-3, "DeepLift": 2e-3, "GradCAM": 1e-4}


@pytest.mark.real_data
@pytest.mark.parametrize("name", BOUNDS)
def test_single_precision_is_not_rounded_to_tf32(name):
    weights = shared_file("data", "squeezenet1_0_imagenet.pt")
    single = load_model("squeezenet1_0", weights, device="cuda")
    exact = load_model("squeezenet1_0", weights).model.double()
    x = single.read(shared_file("data", "images", "dog_cat.png"))[None]
    layer = "features.12" if METHODS[name].needs_layer else None
    expected = METHODS[name](exact, layer)(x.double(), 243)
    found = METHODS[name](single.model, layer)(x, 243).double()
    apart = float((found - expected).norm() / expected.norm())
    print(f"{name}: {apart:.1e}")
    assert apart < BOUNDS[name]


def test_convolutions_and_products_are_exact_inside_and_as_before_outside():
    layer = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.Flatten(), nn.Linear(64 * 256, 64)).cuda()
    x = torch.rand(8, 64, 16, 16, device="cuda")
    torch.set_float32_matmul_precision("high")
    try:
        exact = layer.double()(x.double()).float()
        layer.float()
        with evaluating(layer):
            inside = (layer(x) - exact).abs().max() / exact.abs().max()
        outside = (layer(x) - exact).abs().max() / exact.abs().max()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert inside < 2e-6 and outside > 2 * inside


def test_memory_that_runs_out_costs_time_only():
    class Hungry(Residual):
        """Asks for as much as the card has once it is given many rows."""

        def forward(self, x):
            if len(x) > 5:
                torch.empty(torch.cuda.get_device_properties(0).total_memory, dtype=torch.uint8, device="cuda")
            return super().forward(x)

    model = randomised(Residual()).cuda()
    hungry = Hungry().double().cuda()
    hungry.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 9, 7, dtype=torch.float64)
    expected = METHODS["IntegratedGradients"](model)(x, 1)
    torch.testing.assert_close(METHODS["IntegratedGradients"](hungry)(x, 1), expected, rtol=0, atol=1e-12)


def test_a_page_and_pictures_of_a_model_on_the_gpu(tmp_path):
    model = LitCNN(channels=(4, 6), hidden=16).eval().cuda()
    options = PageOptions(pictured=4, steps=4)
    image = torch.rand(1, 28, 28)
    page = build_page(
        model, image, list("0123456789"), model_name="m", image_name="i", options=options, cache=PictureCache(tmp_path)
    )
    assert page.startswith("<!") and len(page) > 10_000
    assert visualize(model, channel("stages.1", 0), (1, 28, 28), steps=2).device.type == "cuda"
