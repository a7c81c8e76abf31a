"""Task 2 (a): the CNN of explicit formulas, and where it parts from the same network by autograd."""

import copy
import statistics
from typing import TYPE_CHECKING, Any

import yaml

from exercising.training import SEEDS, trained
from exercising.workspace import ROOT, Workspace

if TYPE_CHECKING:
    import torch

    from lit_models import LitCNN

SHOWN = (1, 10, 50, 100)  # updates after which the two are compared; and the last
LOCAL = 20  # first batches on which each way's gradients in single precision are held against double precision


def mnist_explicit(work: Workspace) -> dict[str, Any]:
    """The network once for each seed; then formulas and autograd side by side, in two precisions."""
    import torch

    found = trained(work, "mnist_explicit", SEEDS, "--data.data_dir", work.data_dir)
    together = {
        str(dtype).removeprefix("torch."): side_by_side(work, dtype) for dtype in (torch.float32, torch.float64)
    }
    return {"seeds": SEEDS, **found, "side_by_side": together, "rounding": rounding(work)}


def settings_and_batches(work: Workspace) -> tuple[dict[str, Any], list[tuple["torch.Tensor", "torch.Tensor"]], Any]:
    """The experiment's options of the model, its batches of one epoch, and the official test images."""
    import torch

    from datamodules import MNISTDataModule

    settings = yaml.safe_load((ROOT / "configs" / "mnist_explicit.yaml").read_text(encoding="utf-8"))
    data = MNISTDataModule(work.data_dir)
    data.setup()
    train = data.splits["train"]
    order = torch.randperm(len(train.indices), generator=torch.Generator().manual_seed(0))
    rows = train.indices[order].split(settings["data"]["init_args"]["batch_size"])
    batches = [(train.inputs[batch], train.targets[batch]) for batch in rows]
    return settings["model"]["init_args"], batches, data.splits["test"]


def side_by_side(work: Workspace, dtype: "torch.dtype") -> dict[str, Any]:
    """One epoch twice from one seed and over the same batches.

    ``steps`` holds, for some numbers of updates, how far the losses and the weights (the farthest) are apart;
    ``accuracy`` that of formulas and autograd on the test images, ``same_answers`` how many they answer alike.
    """
    options, batches, test = settings_and_batches(work)
    ours, theirs = (learner(options, how, dtype, len(batches)) for how in ("explicit", "autograd"))
    steps = []
    for step, (images, t) in enumerate(batches, start=1):
        losses = [update(*one, images.to(dtype) / 255, t) for one in (ours, theirs)]
        if step in SHOWN or step == len(batches):
            both = zip(ours[0].parameters(), theirs[0].parameters())
            farthest = max(float((p - q).detach().abs().max()) for p, q in both)
            apart = {"loss_apart": abs(losses[0] - losses[1]), "weights_apart": farthest}
            steps.append({"step": step, "loss": losses[0], **apart})
    answers = [evaluated(one[0], test.inputs.to(dtype) / 255).argmax(1) for one in (ours, theirs)]
    right = [float((one == test.targets).float().mean()) for one in answers]
    return {"steps": steps, "accuracy": right, "same_answers": float((answers[0] == answers[1]).float().mean())}


def rounding(work: Workspace) -> dict[str, float]:
    """How far single precision is off from double, by each way.

    ``explicit`` and ``autograd`` are errors of gradients as parts of a parameter's largest: the worst parameter of a
    batch, the median of `LOCAL` batches while training. (The worst batch would tell of values at a kink of ReLU, which
    rounding puts on its other side.) ``norm_…`` are the largest errors of batch norm's output on maps of one batch.
    """
    import torch
    from torch import nn

    from lit_models import functional_maps

    options, batches, _ = settings_and_batches(work)
    learning = learner(options, "autograd", torch.float32, len(batches))
    worst: dict[str, list[float]] = {"explicit": [], "autograd": []}
    for images, t in batches[:LOCAL]:
        model, x = learning[0], images.float() / 255
        exact = explicit(copy.deepcopy(model).double(), images.double() / 255, t)[1]
        for name, way in (("explicit", explicit), ("autograd", by_autograd)):
            found = way(copy.deepcopy(model), x, t)[1]
            errors = [float((found[key] - e).abs().max() / e.abs().max()) for key, e in exact.items()]
            worst[name].append(max(errors))
        update(*learning, x, t)
    torch.manual_seed(0)
    maps = nn.functional.max_pool2d(nn.Conv2d(1, 8, 5)(batches[0][0].float() / 255), 2).detach()
    norm = nn.BatchNorm2d(maps.shape[1])
    exact_maps = copy.deepcopy(norm).double()(maps.double()).detach()
    last = maps.contiguous(memory_format=torch.channels_last)
    ours, _ = functional_maps.batch_norm_forward(last, norm.weight.detach(), norm.bias.detach())
    outputs = {"norm_explicit": ours, "norm_channels_last": norm(last), "norm_channels_first": norm(maps)}
    medians = {name: statistics.median(errors) for name, errors in worst.items()}
    return medians | {name: float((y.detach() - exact_maps).abs().max()) for name, y in outputs.items()}


def learner(options: dict[str, Any], gradients: str, dtype: "torch.dtype", steps: int) -> tuple:
    """The network from seed 0, its optimiser and its schedule."""
    import torch

    from lit_models import AdamW, LitCNN

    torch.manual_seed(0)
    model = LitCNN(**options | {"gradients": gradients}).to(dtype)
    kind: Any = AdamW if gradients == "explicit" else torch.optim.AdamW
    rate = options["learning_rate"]
    optimizer = kind(model.parameters(), rate, tuple(options["betas"]), weight_decay=model.hparams["weight_decay"])
    return model, optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, cycle_momentum=False)


def update(model: "LitCNN", optimizer: Any, schedule: Any, x: "torch.Tensor", t: "torch.Tensor") -> float:
    """One update by the gradients that the model is asked for; the loss before it."""
    loss, gradients = explicit(model, x, t) if model.hparams["gradients"] == "explicit" else by_autograd(model, x, t)
    model.set_gradients(gradients)
    optimizer.step()
    schedule.step()
    return float(loss)


def explicit(model: "LitCNN", x: "torch.Tensor", t: "torch.Tensor") -> tuple:
    """Loss and gradients by the formulas."""
    return model.loss_and_gradients(x, t)


def by_autograd(model: "LitCNN", x: "torch.Tensor", t: "torch.Tensor") -> tuple:
    """The same by autograd."""
    import torch
    import torch.nn.functional as F

    loss = F.cross_entropy(model(x), t, label_smoothing=model.hparams["label_smoothing"])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss.detach(), {name: gradient for (name, _), gradient in zip(model.named_parameters(), gradients)}


def evaluated(model: "LitCNN", images: "torch.Tensor") -> "torch.Tensor":
    """The logits of the trained network."""
    import torch

    model.eval()
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(1000)])
