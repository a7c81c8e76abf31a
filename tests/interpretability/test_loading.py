import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

from conftest import shared_file
from interpretability import load_model
from interpretability.attribution import GradCAM, Saliency
from interpretability.images import load_image
from interpretability.loading.weights import load_weights
from interpretability.pixel_model import PixelModel


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
        load_model("squeezenet1_2")
    with pytest.raises(FileNotFoundError, match=r"'absent\.pt': no such file; weights by name: IMAGENET1K_V1, DEFAULT"):
        load_model("squeezenet1_0", "absent.pt")


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
        load_model("squeezenet1_0", path)


def test_other_shapes_and_unknown_tensors_are_named(tmp_path):
    state = models.squeezenet1_0(num_classes=10).state_dict()
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"has other shapes for classifier\.1\.bias, classifier\.1\.weight"):
        load_model("squeezenet1_0", path)
    torch.save(models.squeezenet1_0().state_dict() | {"extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="has unknown extra"):
        load_model("squeezenet1_0", path)


def test_the_models_own_sizes_are_known():
    for name, size, resize in (("squeezenet1_0", 224, 256), ("inception_v3", 299, 342)):
        read = load_model(name).read
        assert (read.size, read.resize) == ((size, size), (resize, resize))


@pytest.mark.real_data
def test_squeezenet_sees_the_dog_and_explains_the_cat_elsewhere(squeezenet_weights, dog_cat_image):
    loaded = load_model("squeezenet1_0", squeezenet_weights)
    model, names = loaded.model, loaded.class_names
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

    model = load_model("squeezenet1_0", squeezenet_weights).model.double()
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
    load_weights(model, tmp_path / "old.pt")
    assert source[1].running_mean.abs().max() > 0
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


MODULE = """
import torch
from torch import nn

class Tiny(nn.Module):
    class_names = ["a", "b", "c"]
    def __init__(self, channels=4, input_shape=(3, 16, 12)):
        super().__init__()
        self.input_shape = input_shape
        self.features = nn.Sequential(nn.Conv2d(input_shape[0], channels, 3), nn.ReLU())
        self.head = nn.Linear(channels, 3)
    def forward(self, x):
        return {"logits": self.head(self.features(x).mean(dim=(2, 3)))}

def nothing(): return 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own in the current folder."""
    (tmp_path / "own_networks.py").write_text(MODULE)
    (tmp_path / "broken_networks.py").write_text("import absent_library")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    yield tmp_path
    sys.modules.pop("own_networks", None)


def test_a_module_of_ones_own(own):
    loaded = load_model("own_networks:Tiny", arguments={"channels": 2}, mean=[0.5], std=[0.1, 0.2, 0.3])
    assert (loaded.input_shape, loaded.class_names) == ((3, 16, 12), ["a", "b", "c"])
    assert loaded.model.normalize.std.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    x = torch.rand(2, 3, 16, 12)
    normalised = (x - 0.5) / torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    torch.testing.assert_close(loaded.model(x), loaded.model.model(normalised)["logits"])
    assert GradCAM(loaded.model, "features")(x).shape == (2, 1, 14, 10)
    Image.new("RGB", (40, 40), (255, 0, 0)).save(own / "red.png")
    assert loaded.read(own / "red.png").shape == (3, 16, 12)


@pytest.mark.parametrize("prefix", ["", "model.", "net.", "module.", "_orig_mod.", "module._orig_mod.", "model.net."])
def test_a_prefix_common_to_all_names_is_recognised(own, prefix):
    state = load_model("own_networks:Tiny").model.model.state_dict()
    for content in (state, {"state_dict": state, "epoch": 3}):
        named = {f"{prefix}{name}": value for name, value in state.items()}
        torch.save(content | {"state_dict": named} if "epoch" in content else named, own / "weights.pt")
        found = load_model("own_networks:Tiny", own / "weights.pt").model.model.state_dict()
        assert all(torch.equal(value, found[name]) for name, value in state.items())


def test_safetensors_are_weights(own):
    safetensors = pytest.importorskip("safetensors.torch")
    state = load_model("own_networks:Tiny").model.model.state_dict()
    safetensors.save_file(state, own / "weights.safetensors")
    found = load_model("own_networks:Tiny", own / "weights.safetensors").model.model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in state.items())
    (own / "weights.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        load_model("own_networks:Tiny", own / "weights.safetensors")


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("absent_networks:Tiny", {}, "no module 'absent_networks', neither in the current folder nor installed"),
        ("broken_networks:Tiny", {}, "broken_networks needs absent_library, which is not installed"),
        ("own_networks:Tyni", {}, "unknown class or function in own_networks 'Tyni'; did you mean 'Tiny'"),
        ("own_networks:nothing", {}, "own_networks:nothing returned a int, not a torch.nn.Module"),
        ("own_networks:Tiny", {"arguments": {"width": 3}}, "cannot be called with .*width.*--model-args"),
        ("own_networks:Tiny", {"size": (2, 2)}, "takes no images of 2 × 2 pixels and 3 channels .*--size"),
        ("own_networks:Tiny", {"classes": ["a"]}, "there are 1 class names for 3 outputs"),
        ("own_networks:Tiny", {"mean": [0.1, 0.2]}, "mean needs 3 numbers, one for each channel"),
        ("timm:resnet_18", {}, "unknown timm model 'resnet_18'"),
        ("hub:resnet", {}, "no module 'hub'.*timm:NAME, transformers:NAME or package.module:name"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(own, spec, options, words):
    if spec.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=words) as error:
        load_model(spec, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_library_that_is_missing_is_told_with_the_command_that_installs_it(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=rf"{library} is not installed: pip install 'backlit\[{library}\]'"):
        load_model(f"{library}:anything")


def test_class_names_from_a_file(own):
    for name, text in (
        ("names.txt", "x\ny\n\nz\n"),
        ("names.json", '["x", "y", "z"]'),
        ("map.json", '{"1": "y", "0": "x", "2": "z"}'),
    ):
        (own / name).write_text(text)
        assert load_model("own_networks:Tiny", classes=own / name).class_names == ["x", "y", "z"]
    (own / "names.json").write_text("{")
    with pytest.raises(ValueError, match=r"names\.json: neither a name a line nor JSON"):
        load_model("own_networks:Tiny", classes=own / "names.json")


def test_a_lightning_module_from_its_checkpoint_and_no_other_class(own):
    from lit_models import LitCNN

    model = LitCNN(channels=(2, 2), kernel_size=3, hidden=4, num_outputs=3)
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "epoch": 0,
               "global_step": 1, "pytorch-lightning_version": "2.6.6"}  # fmt: skip
    torch.save(content, own / "run.ckpt")
    loaded = load_model("lit_models.cnn:LitCNN", own / "run.ckpt")
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(loaded.model(x), model.eval()(x))
    builder = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
    content["hyper_parameters"] |= builder | {"_class_path": "lit_models.LitCNN"}  # as LightningCLI writes it
    torch.save(content, own / "run.ckpt")
    assert torch.equal(load_model("lit_models.cnn:LitCNN", own / "run.ckpt").model(x), model(x))
    assert torch.equal(load_model(str(own / "run.ckpt")).model(x), model(x))
    content["hyper_parameters"] |= {"_class_path": "subprocess.Popen"}
    torch.save(content, own / "run.ckpt")
    with pytest.raises(ValueError, match=r"asks to be built by subprocess\.Popen"):
        load_model("lit_models.cnn:LitCNN", own / "run.ckpt")


def test_a_timm_model_with_its_own_configuration():
    timm = pytest.importorskip("timm")
    loaded = load_model("timm:test_vit", arguments={"num_classes": 1000})
    config = timm.data.resolve_model_data_config(loaded.model.model)
    assert loaded.input_shape == config["input_size"]
    assert loaded.model.normalize.mean.flatten().tolist() == pytest.approx(list(config["mean"]))
    assert loaded.class_names[243] == "bull mastiff"
    assert load_model("timm:test_vit", arguments={"num_classes": 5}).class_names == list("01234")


def test_timms_own_preparation_of_an_image(tmp_path):
    timm = pytest.importorskip("timm")
    loaded = load_model("timm:tf_efficientnet_lite0")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(loaded.model.model))
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((500, 400)).save(tmp_path / "photo.png")
    expected = transform(Image.open(tmp_path / "photo.png").convert("RGB"))
    torch.testing.assert_close(loaded.model.normalize(loaded.read(tmp_path / "photo.png")[None])[0], expected)


@pytest.mark.real_data
def test_efficientnet_sees_the_dog(dog_cat_image):
    pytest.importorskip("timm")
    weights = shared_file("data", "efficientnet_lite0_imagenet.pt")
    loaded = load_model("timm:tf_efficientnet_lite0", weights)
    probabilities = loaded.model(loaded.read(dog_cat_image)[None]).softmax(1)[0]
    best = probabilities.topk(2)
    assert [loaded.class_names[k] for k in best.indices] == ["bull mastiff", "boxer"]
    assert best.values.tolist() == pytest.approx([0.35, 0.17], abs=0.05)


def test_a_classifier_of_transformers_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1,
                                    num_attention_heads=2, intermediate_size=32, id2label={0: "x", 1: "y"})  # fmt: skip
    model = transformers.AutoModelForImageClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_std=[0.2, 0.3, 0.4])
    processor.save_pretrained(tmp_path)
    loaded = load_model(f"transformers:{tmp_path}")
    assert (loaded.input_shape, loaded.class_names) == ((3, 32, 32), ["x", "y"])
    Image.new("RGB", (50, 40), (200, 90, 30)).save(tmp_path / "image.png")
    pixels = processor(Image.open(tmp_path / "image.png"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(loaded.read(tmp_path / "image.png")[None]), model(pixels).logits)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('width')", "failed with KeyError: 'width'"),
        ("return Wrapped(lambda x: {'out': x.mean()})", "returned a dict of out, with no logits"),
        ("return Wrapped(lambda x: None)", "returned a NoneType, with no logits"),
    ],
)
def test_code_of_ones_own_that_fails_or_gives_no_logits_is_named(tmp_path, monkeypatch, body, message):
    lines = [
        "import torch",
        "class Wrapped(torch.nn.Module):",
        "    def __init__(self, f):",
        "        super().__init__()",
    ]
    lines += ["        self.f = f", "    def forward(self, x):", "        return self.f(x)", f"def make():\n    {body}"]
    (tmp_path / "networks_that_fail.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "networks_that_fail", raising=False)
    with pytest.raises(ValueError, match=f"networks_that_fail:make.*{message}"):
        load_model("networks_that_fail:make")
