import pytest
import torch
from torch import nn
from torchvision import models

from interpretability.attribution import GradCAM, Saliency
from interpretability.images import load_image
from interpretability.pixel_model import PixelModel
from interpretability.zoo import image_sizes, load_state_dict, load_torchvision


def test_pixels_are_normalised_before_the_model():
    inner = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    x = torch.rand(3, 3, 2, 2)
    wrapped = PixelModel(inner, [0.1, 0.2, 0.3], [0.5, 1.0, 2.0])
    expected = torch.stack([(x[:, 0] - 0.1) / 0.5, x[:, 1] - 0.2, (x[:, 2] - 0.3) / 2], dim=1)
    torch.testing.assert_close(wrapped(x), inner(expected))
    assert not torch.allclose(wrapped(x), inner(x))
    for images in (x[:, :1], x[0]):
        with pytest.raises(ValueError, match=r"expected images \(N, 3, H, W\)"):
            wrapped(images)
    with pytest.raises(ValueError, match="std must be positive"):
        PixelModel(inner, [0.0], [0.0])
    with pytest.raises(ValueError, match="one number per channel"):
        PixelModel(inner, [0.0, 0.0], [1.0])


def test_unknown_names_and_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"unknown torchvision classifier 'squeezenet1_2'; did you mean 'squeezenet1_"):
        load_torchvision("squeezenet1_2")
    with pytest.raises(FileNotFoundError, match=r"'absent\.pt': no such file; weights by name: IMAGENET1K_V1, DEFAULT"):
        load_torchvision("squeezenet1_0", "absent.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"features.0.weight": torch.zeros(1)}, ": does not fit SqueezeNet: it lacks .*classifier.1.bias"),
        ([1, 2], ": holds no state dict"),
        (b"junk", " cannot be read safely"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, content, words):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=rf"weights\.pt{words}"):
        load_torchvision("squeezenet1_0", path)


def test_other_shapes_and_unknown_tensors_are_named(tmp_path):
    state = models.squeezenet1_0(num_classes=10).state_dict()
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"has other shapes for classifier\.1\.bias, classifier\.1\.weight"):
        load_torchvision("squeezenet1_0", path)
    torch.save(models.squeezenet1_0().state_dict() | {"extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="has unknown extra"):
        load_torchvision("squeezenet1_0", path)


def test_the_models_own_sizes_are_known():
    assert image_sizes("squeezenet1_0") == (256, 224)
    assert image_sizes("inception_v3") == (342, 299)


@pytest.mark.real_data
def test_squeezenet_sees_the_dog_and_explains_the_cat_elsewhere(squeezenet_weights, dog_cat_image):
    model, names = load_torchvision("squeezenet1_0", squeezenet_weights)
    x = load_image(dog_cat_image)[None]
    assert names[int(model(x).argmax())] == "bull mastiff"
    dog, cat = (GradCAM(model, "features.12")(x, names.index(name))[0, 0] for name in ("bull mastiff", "tiger cat"))
    rows = torch.arange(13.0)
    height = [float((cam.sum(dim=1) * rows).sum() / cam.sum()) for cam in (dog, cat)]
    assert height[0] < 6 < 7 < height[1]  # the dog sits above, the cat lies below
    below = []
    for name in ("bull mastiff", "tiger cat"):
        saliency = Saliency(model)(x, names.index(name)).abs()
        below.append(float(saliency[:, :, 112:].sum() / saliency.sum()))
    assert below[0] < 0.5 < 0.6 < below[1]


@pytest.mark.real_data
def test_the_real_network_agrees_with_captum_to_eight_digits(squeezenet_weights, dog_cat_image):
    import captum.attr

    model, _ = load_torchvision("squeezenet1_0", squeezenet_weights)
    model = model.double()
    x = load_image(dog_cat_image, 96)[None].double()
    layer = model.model.features[12]
    for ours, theirs in (
        (Saliency(model)(x, 243), captum.attr.Saliency(model).attribute(x.clone(), 243, abs=False)),
        (GradCAM(model, "features.12", relu=False)(x, 243), captum.attr.LayerGradCam(model, layer).attribute(x, 243)),
    ):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-8)


def test_files_from_before_batches_were_counted_fit(tmp_path):
    source = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    nn.init.normal_(source[1].running_mean)
    state = {name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pt")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    load_state_dict(model, tmp_path / "old.pt")
    assert source[1].running_mean.abs().max() > 0
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
