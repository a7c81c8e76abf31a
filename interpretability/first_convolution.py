"""The last step of the way back to the pixels, written out: the first convolution's own input gradient.

Library kernels for this step fill whole vectors with channels; an image has one or three, so most of their work is
thrown away, and for a small network it is the largest part of a backward pass. The matrix product below does
what is needed only: for digits two to three times as fast.
"""

from collections import defaultdict
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

FEW_CHANNELS = 4
WORTHWHILE = 8192  # input values from which on the saving exceeds the effort of looking for it
AFFINE = {"SubBackward0", "AddBackward0", "MulBackward0", "DivBackward0", "CloneBackward0", "ToCopyBackward0"}


def gradient_through(scores: Tensor, leaf: Tensor, keep_graph: bool = False, stacked: int = 1) -> Tensor | None:
    """∂(Σ scores)/∂leaf by autograd down to the first convolution and by eq. 3.4 through it.

    Where ``leaf`` (kN, …) is ``stacked`` k times over, the sum over the k: (N, …). The convolution's way back is the
    same for all of them, and linear, so they are summed above it where that is true of what lies below as well.

    None where that is of no use: no such convolution is the only way from ``leaf`` up, or autograd is quicker.
    """
    image = leaf.ndim == 4 and leaf.shape[1] <= FEW_CHANNELS and leaf.numel() >= WORTHWHILE
    if not image or leaf.device.type != "cpu" or leaf.dtype not in (torch.float32, torch.float64):
        return None
    convolution = first_convolution(scores, leaf)
    if convolution is None:
        return None
    (dz,) = torch.autograd.grad(scores, GradientEdge(convolution, 0), torch.ones_like(scores), retain_graph=keep_graph)
    summed_above = stacked > 1 and _same_for_every_row(convolution, leaf)
    if summed_above:
        dz = sum_of_stacked(dz, stacked)
    dx = convolution_input_gradient(dz, convolution)
    missing = len(leaf) - len(dx)  # rows whose gradient is in the sum already
    dx = torch.cat([dx, dx.new_zeros(missing, *dx.shape[1:])]) if missing else dx
    (gradient,) = torch.autograd.grad(GradientEdge(*convolution.next_functions[0]), leaf, dx, retain_graph=keep_graph)
    return gradient[: len(dz)] if summed_above else sum_of_stacked(gradient, stacked)


def sum_of_stacked(values: Tensor, k: int) -> Tensor:
    """Σ over the k of ``values`` (kN, …), which hold N samples k times over: (N, …).

    Summed in the order in which they lie in memory: over the rows of a strided view it takes up to ten times as long.
    """
    if k == 1:
        return values
    last = values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)
    rows = values.permute(0, 2, 3, 1) if last else values
    total = rows.reshape(k, -1).sum(dim=0).view(len(rows) // k, *rows.shape[1:])
    return total.permute(0, 3, 1, 2) if last else total


def convolution_input_gradient(dz: Tensor, convolution: Any) -> Tensor:
    """∂L/∂x of z = w ∗ x + b from dz (N, K, h, w), for a node of the autograd graph   eq. 3.4."""
    x, w = convolution._saved_input, convolution._saved_weight
    (k, c, rows, columns), (n, _, height, width), sides = w.shape, dz.shape, x.shape[2:]
    down, right = convolution._saved_stride
    above, left = (*convolution._saved_padding, *convolution._saved_padding)[:2]  # one number for padding="valid"
    sent = w.permute(2, 3, 1, 0).reshape(-1, k) @ dz.movedim(1, 0).reshape(k, -1)  # (kh·kw·C, K)(K, N·h·w)
    sent = sent.view(rows, columns, c, n, height, width)
    dx = dz.new_zeros(c, n, sides[0] + 2 * above, sides[1] + 2 * left)
    for i, j in product(range(rows), range(columns)):  # what a place in the kernel sends to the pixels that it saw
        top, start = i * convolution._saved_dilation[0], j * convolution._saved_dilation[1]
        dx[:, :, top : top + down * height : down, start : start + right * width : right] += sent[i, j]
    return dx[:, :, above : above + sides[0], left : left + sides[1]].transpose(0, 1)


def first_convolution(scores: Tensor, leaf: Tensor) -> Any | None:
    """The graph's convolution that all of ``leaf``'s influence passes through first, else None."""
    users = defaultdict(list)
    waiting, seen = [scores.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for slot, (below, _) in enumerate(node.next_functions):
            users[below].append((node, slot))
            waiting.append(below)
    node = get_gradient_edge(leaf).node
    while len(users[node]) == 1:  # a second user would carry influence around the convolution
        ((node, slot),) = users[node]
        if node.name() == "ConvolutionBackward0":
            return node if slot == 0 and _is_plain(node) else None
    return None


def _is_plain(node: Any) -> bool:
    few = node._saved_input.ndim == 4 and node._saved_input.shape[1] <= FEW_CHANNELS
    return few and not node._saved_transposed and node._saved_groups == 1


def _same_for_every_row(convolution: Any, leaf: Tensor) -> bool:
    """Whether only shifts and scales lie between ``leaf`` and the convolution, none of them a row's own."""
    node, end = convolution.next_functions[0][0], get_gradient_edge(leaf).node
    while node is not end:
        below = [before for before, _ in node.next_functions if before is not None]
        scales = (getattr(node, saved, None) for saved in ("_saved_self", "_saved_other"))
        own = any(scale is not None and scale.ndim == leaf.ndim and len(scale) > 1 for scale in scales)
        if node.name() not in AFFINE or len(below) != 1 or own:
            return False
        node = below[0]
    return len(leaf) > 1
