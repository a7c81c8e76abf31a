"""The networks of the matrix: every family of torchvision's classifiers, and timm's transformers and modern blocks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """A network with random weights.

    ``layout`` is how the layer that is explained lies, by the network's documentation: ``first``, ``last``, or the
    number of special tokens in front of those of the patches.
    """

    spec: str
    size: tuple[int, int] = (64, 64)
    layout: str | int = "first"
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As tables call it."""
        return self.spec.partition(":")[2] or self.spec

    @property
    def title(self) -> str:
        """As tables call it: its library, and its size where it is not square."""
        library = "timm" if self.spec.startswith("timm:") else "torchvision"
        shape = "" if self.size[0] == self.size[1] else f", {self.size[0]} × {self.size[1]}"
        return f"{self.name} ({library}{shape})"

    def build(self) -> nn.Module:
        """The model in double precision; heads that begin with zeros are drawn anew, or every map would be zero."""
        from interpretability import load_model

        torch.manual_seed(0)
        model = load_model(self.spec, size=self.size, arguments=self.arguments).model.double()
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.1)
        return model

    def arrange(self, grid: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        """Outputs of the layer as maps (N, C, h, w), written out."""
        if self.layout == "first":
            return lambda output: output
        if self.layout == "last":
            return lambda output: output.permute(0, 3, 1, 2)
        return lambda output: output[:, self.layout :].transpose(1, 2).reshape(len(output), -1, *grid)


ARCHITECTURES = (
    Architecture("alexnet"),
    Architecture("convnext_tiny"),
    Architecture("densenet121"),
    Architecture("efficientnet_b0"),
    Architecture("efficientnet_v2_s"),
    Architecture("googlenet", arguments={"aux_logits": False, "init_weights": False}),
    Architecture("inception_v3", (96, 96), arguments={"aux_logits": False, "init_weights": False}),
    Architecture("maxvit_t", (224, 224)),
    Architecture("mnasnet0_5"),
    Architecture("mobilenet_v2"),
    Architecture("mobilenet_v3_small"),
    Architecture("regnet_x_400mf"),
    Architecture("regnet_y_400mf"),
    Architecture("resnet18"),
    Architecture("resnet50"),
    Architecture("resnext50_32x4d"),
    Architecture("shufflenet_v2_x0_5"),
    Architecture("squeezenet1_0"),
    Architecture("swin_t", layout="last"),
    Architecture("swin_v2_t", layout="last"),
    Architecture("vgg11_bn"),
    Architecture("vit_b_32", layout=1, arguments={"image_size": 64}),
    Architecture("wide_resnet50_2"),
    Architecture("timm:vit_tiny_patch16_224", layout=1, arguments={"img_size": 64}),
    Architecture("timm:vit_tiny_patch16_224", (64, 32), 1, {"img_size": (64, 32)}),
    Architecture("timm:deit_tiny_distilled_patch16_224", layout=2, arguments={"img_size": 64}),
    Architecture("timm:vit_small_patch14_reg4_dinov2", (56, 56), 5, {"img_size": 56, "num_classes": 10}),
    Architecture("timm:eva02_tiny_patch14_224", (56, 56), 1, {"img_size": 56, "num_classes": 10}),
    Architecture("timm:swin_tiny_patch4_window7_224", (64, 64), "last", {"img_size": 64}),
    Architecture("timm:maxvit_rmlp_pico_rw_256", (64, 64), "first", {"img_size": 64}),
    Architecture("timm:convnextv2_atto"),
    Architecture("timm:mixer_s32_224", (128, 128), 0, {"img_size": 128}),
    Architecture("timm:tf_efficientnet_lite0"),
    Architecture("timm:mobilenetv4_conv_small"),
    Architecture("timm:regnety_002"),
    Architecture("timm:resnest14d"),
    Architecture("timm:poolformer_s12"),
)
SMALL = (
    "squeezenet1_0",
    "regnet_y_400mf",
    "vit_tiny_patch16_224",
    "convnextv2_atto",
    "mobilenetv4_conv_small",
    "swin_t",
)
