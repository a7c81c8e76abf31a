"""Task 2 (a): the CNN of explicit formulas, and where it parts from the same network by autograd."""

from typing import TYPE_CHECKING, Any

import yaml

from exercising.training import SEEDS, trained
from exercising.workspace import ROOT, Workspace

if TYPE_CHECKING:
    import torch

    from lit_models import LitCNN

SHOWN = (1, 10, 50, 100)  # updates after which the two are compared; and the last
LOCAL = 20  # updates after each of which the gradients of one and the same network are compared


def mnist_explicit(work: Workspace) -> dict[str, Any]:
    """The network once for each seed; then formulas and autograd side by side, in two precisions."""
    found = trained(work, "mnist_explicit", SEEDS, "--data.data_dir", work.data_dir)
    return {
        "seeds": SEEDS,
        **found,
        "side_by_side": {name: side_by_side(work, name) for name in ("float32", "float64")},
    }


def side_by_side(work: Workspace, precision: str) -> dict[str, Any]:
    """One epoch twice from one seed and over the same batches: how far losses and weights are apart.

    ``steps`` holds, for some numbers of updates, the difference of the losses and the largest difference of weights.
    ``gradients`` is the largest difference of the two gradients of one and the same network, as a part of the largest
    gradient: what rounding does before updates amplify it.
    """
    import torch

    from datamodules import MNISTDataModule

    settings = yaml.safe_load((ROOT / "configs" / "mnist_explicit.yaml").read_text(encoding="utf-8"))
    data = MNISTDataModule(work.data_dir)
    data.setup()
    train, dtype = data.splits["train"], getattr(torch, precision)
    images, labels = train.inputs[train.indices], train.targets[train.indices]
    size = settings["data"]["init_args"]["batch_size"]
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).split(size)
    ours, theirs = (learner(settings["model"]["init_args"], how, dtype, len(rows)) for how in ("explicit", "autograd"))
    steps, gradients, rounding = [], [], torch.finfo(dtype).eps
    for step, batch in enumerate(rows, start=1):
        x, t = images[batch].to(dtype) / 255, labels[batch]
        if step <= LOCAL:
            gradients.append(apart(ours[0], x, t))
        losses = [update(*one, x, t) for one in (ours, theirs)]
        if step in SHOWN or step == len(rows):
            largest = max(float((p - q).abs().max()) for p, q in zip(ours[0].parameters(), theirs[0].parameters()))
            steps.append(
                {"step": step, "loss": losses[0], "loss_apart": abs(losses[0] - losses[1]), "weights_apart": largest}
            )
    test = data.splits["test"]
    logits = [evaluated(one[0], test.inputs.to(dtype) / 255) for one in (ours, theirs)]
    right = [float((y.argmax(1) == test.targets).float().mean()) for y in logits]
    same = float((logits[0].argmax(1) == logits[1].argmax(1)).float().mean())
    return {"steps": steps, "gradients": max(gradients), "rounding": rounding, "accuracy": right, "same_answers": same}


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


def apart(model: "LitCNN", x: "torch.Tensor", t: "torch.Tensor") -> float:
    """How far both ways' gradients of one network are apart, as a part of the largest; the network stays as it was."""
    import copy

    both = [way(copy.deepcopy(model), x, t)[1] for way in (explicit, by_autograd)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(both[0].values(), both[1].values()))


def evaluated(model: "LitCNN", images: "torch.Tensor") -> "torch.Tensor":
    """The logits of the trained network."""
    import torch

    model.eval()
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(1000)])
