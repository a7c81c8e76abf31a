"""The stages of ``LitCNN``: convolutions, then half the height and width."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

Padding = Literal["same", "valid"]
Downsampling = Literal["pool", "convolution"]
HALVING_KERNEL = 5  # of the convolution with stride 2 that takes the place of pooling


def conv_stage(
    inputs: int,
    outputs: int,
    kernel_size: int,
    convs: int,
    padding: Padding = "same",
    downsampling: Downsampling = "pool",
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """``convs`` convolutions, each with batch norm and ReLU, halved by 2×2 max-pooling (eq. 1.23 to 1.25).

    The pooling comes right behind the last convolution: ReLU commutes with it, and four times fewer values are left.
    Instead of it, ``downsampling="convolution"`` learns one of stride 2 (Springenberg et al. 2015, "Striving for
    simplicity").
    """
    margin = kernel_size // 2 if padding == "same" else 0
    layers: list[nn.Module] = []

    def add(size: int, stride: int, padding: int) -> None:
        layers.append(nn.Conv2d(outputs if layers else inputs, outputs, size, stride, padding, bias=not batch_norm))
        layers.extend([nn.BatchNorm2d(outputs)] if batch_norm else [])
        layers.append(nn.ReLU())

    for _ in range(convs):
        add(kernel_size, 1, margin)
    if downsampling == "convolution":
        add(HALVING_KERNEL, 2, HALVING_KERNEL // 2)
    else:
        layers.insert(-2 if batch_norm else -1, nn.MaxPool2d(2))
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))


def side_after(side: int, convs: Sequence[int], kernel_size: int, padding: Padding, downsampling: Downsampling) -> int:
    """What is left of an image's side behind stages of so many convolutions; below 1 where they do not fit it."""
    lost = 0 if padding == "same" else kernel_size - 1
    for count in convs:
        side -= count * lost
        side = (side + 1) // 2 if downsampling == "convolution" else side // 2
        if side < 1:
            break
    return side
