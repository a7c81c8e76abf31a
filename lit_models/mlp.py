"""`LitMLP`: a multilayer perceptron trained by explicit formulas instead of autograd.

The modules make an ordinary network, which predicts, takes hooks and can be explained like any other. Training
does not ask autograd: `LitMLP.loss_and_gradients` computes every gradient by the formulas of
`lit_models.functional`, and the optimisers of `lit_models.optimizers` apply them.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lit_models import checks, functional, network
from lit_models.layers import Dropout, Normalize
from lit_models.manual import ManualTraining
from lit_models.optimizers import OPTIMIZERS
from lit_models.schedules import make_schedule

MODULES: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(functional.LEAKY_SLOPE),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class LitMLP(ManualTraining):
    """Linear layers with a nonlinearity and dropout between them, trained by explicit gradients.

    The objective is the data term plus (λ/2) Σ w² over weights, never biases; ``train/loss`` logs it, while
    ``val/loss`` and ``test/loss`` log the data term alone. With ``optimizer="adamw"`` λ decays the weights in
    the update instead (eq. 2.7).

    Args:
        input_shape: shape of one sample.
        num_outputs: numbers predicted, or classes.
        hidden: width of each hidden layer; none gives a linear model.
        activation: identity, relu, leaky_relu, tanh, sigmoid, softplus, gelu or silu.
        loss: mse (mean over all elements), or cross_entropy (mean over the batch) on classes (N,).
        dropout: probability of dropping a hidden unit, in [0, 1).
        weight_decay: λ, not negative.
        optimizer: sgd, adam or adamw, at ``learning_rate``; ``momentum`` and ``nesterov`` are for sgd.
        schedule: constant, cosine or one_cycle, advanced every ``schedule_interval`` (step or epoch).
        gradient_clip_val, gradient_clip_algorithm: clip by global norm, or each element by value.
        accumulate_grad_batches: average the gradients of so many batches into one update.
        mean, std: the input is normalised by these, inside the model.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (1,),
        num_outputs: int = 1,
        hidden: Sequence[int] = (10,),
        activation: str = "tanh",
        loss: str = "mse",
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        optimizer: str = "adam",
        learning_rate: float = 1e-2,
        momentum: float = 0.0,
        nesterov: bool = False,
        schedule: str = "constant",
        schedule_interval: Literal["step", "epoch"] = "step",
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        accumulate_grad_batches: int = 1,
        mean: float = 0.0,
        std: float = 1.0,
    ):
        super().__init__()
        self.save_hyperparameters()
        checks.hyperparameters(self.hparams)
        self.automatic_optimization = False
        self.input_shape, self.num_outputs = tuple(input_shape), num_outputs
        self.activation, self.loss = activation, loss
        self.normalize = Normalize(mean, std)
        self.hidden = nn.Sequential()
        width = math.prod(input_shape)
        for units in hidden:
            self.hidden.extend([nn.Linear(width, units), MODULES[activation](), Dropout(dropout)])
            width = units
        self.output = nn.Linear(width, num_outputs)
        self._linears = (*(m for m in self.hidden if isinstance(m, nn.Linear)), self.output)
        self._names = [name for name, _ in self.named_parameters()]
        self._rescales = (mean, std) != (0.0, 1.0)
        self._dropout, self._penalty = dropout, 0.0 if optimizer == "adamw" else weight_decay
        if loss == "cross_entropy":
            self.val_accuracy = MulticlassAccuracy(num_outputs, average="micro")
            self.test_accuracy = MulticlassAccuracy(num_outputs, average="micro")
        self._losses: list[float] = []  # of the running epoch

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # set by Lightning two dozen times a step, at the price of a layer each
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    # --- the network --------------------------------------------------------------------------------------

    def embed(self, x: Tensor) -> Tensor:
        """The penultimate features (N, width) of x (N, *input_shape)."""
        return self.hidden(self.normalize(x).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Predictions or logits (N, num_outputs) of x (N, *input_shape), through the modules."""
        return self.output(self.embed(x))

    def loss_and_gradients(self, x: Tensor, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective and its gradient for each parameter's name, by the explicit formulas (eq. 1.19).

        Dropout follows ``self.training``. Raises ValueError where ``x`` or ``t`` does not fit the model.
        """
        checks.batch(x, t, self.input_shape, self.num_outputs, self.loss)
        value, gradients = network.loss_and_gradients(
            self._flatten(x),
            t,
            self._layers(),
            activation=self.activation,
            loss=self.loss,
            dropout=self._dropout if self.training else 0.0,
            weight_decay=self._penalty,
        )
        return value, dict(zip(self._names, itertools.chain.from_iterable(gradients)))

    def input_gradient(self, x: Tensor, target: Any = None) -> Tensor:
        """∂score/∂x, shaped as x (N, *input_shape), by the same formulas and without dropout (eq. 1.18).

        ``target`` is a class, a LongTensor (N,), a callable logits -> (N,), or None for the predicted class.
        """
        checks.input_shape(x, self.input_shape)
        with torch.no_grad():
            y, caches = network.network_forward(self._flatten(x), self._layers(), self.activation)
            dy = network.score_gradient(y, target)
            dx = network.network_input_backward(dy, caches, self.activation)
        return dx.view(x.shape) / self.normalize.std

    def _layers(self) -> functional.Layers:
        return [(linear.weight, linear.bias) for linear in self._linears]

    def _flatten(self, x: Tensor) -> Tensor:
        if self._rescales:
            x = self.normalize(x)
        return x if x.dim() == 2 else x.flatten(1)

    def _parameters_in_order(self) -> list[Tensor]:
        return [p for linear in self._linears for p in (linear.weight, linear.bias)]

    # --- training -----------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The hand-written optimiser, and the schedule of its learning rate where there is one."""
        h: Any = self.hparams
        options: dict[str, Any] = {"lr": h.learning_rate}
        groups: Any = self._parameters_in_order()
        if h.optimizer == "sgd":
            options |= {"momentum": h.momentum, "nesterov": h.nesterov}
        elif h.optimizer == "adamw":
            groups = [
                {"params": [m.weight for m in self._linears], "weight_decay": h.weight_decay},
                {"params": [m.bias for m in self._linears], "weight_decay": 0.0},
            ]
        optimizer = OPTIMIZERS[h.optimizer](groups, **options)
        if h.schedule == "constant":
            return optimizer
        every = h.accumulate_grad_batches
        return make_schedule(h.schedule, optimizer, h.learning_rate, self.trainer, h.schedule_interval, every)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The explicit gradients into ``.grad``, then one update (or one for several batches)."""
        x, t = batch
        checks.finite(x, "inputs")
        loss, gradients = self.loss_and_gradients(x, t)
        self._losses.append(self._descend(loss, gradients, t, batch_idx))
        self._log_training(self._losses[-1], batch_idx)

    def _log_training(self, loss: float, batch_idx: int) -> None:
        """Log sparingly, for a tiny network's step costs less than one call of ``log``."""
        trainer: Any = self.trainer
        if trainer.log_every_n_steps and (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self.log("train/loss_step", loss, sync_dist=True)
        if self._ends_epoch(batch_idx) or 0 < trainer.max_steps <= trainer.global_step:
            mean = math.fsum(self._losses) / len(self._losses)
            self.log("train/loss", mean, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
            self._losses.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The losses of an epoch that was cut short, for its mean; those of every rank."""
        losses = [self._losses] * (self.trainer.world_size if self._trainer else 1)
        if len(losses) > 1:
            torch.distributed.all_gather_object(losses, self._losses)
        checkpoint["epoch_losses"] = losses

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up again."""
        losses = checkpoint.get("epoch_losses", [])
        if self._trainer and len(losses) == self.trainer.world_size:
            self._losses = list(losses[self.trainer.global_rank])

    # --- validation and test ------------------------------------------------------------------------------

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log ``val/loss``, and ``val/accuracy`` of a classifier."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log ``test/loss``, and ``test/accuracy`` of a classifier."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Predictions or logits of a batch, with or without targets."""
        return self(batch[0] if isinstance(batch, list | tuple) else batch)

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        x, t = batch
        checks.batch(x, t, self.input_shape, self.num_outputs, self.loss)
        checks.finite(x, "inputs")
        checks.finite(t, "targets")
        y = self(x)
        loss, _ = functional.LOSSES[self.loss].forward(y, t)
        size: Any = float(len(x))  # Lightning's mean of integers over ranks would be rounded down
        self.log(f"{stage}/loss", loss, prog_bar=True, sync_dist=True, batch_size=size)
        if self.loss == "cross_entropy":
            accuracy = getattr(self, f"{stage}_accuracy")
            accuracy(y, t)
            self.log(f"{stage}/accuracy", accuracy, prog_bar=True, batch_size=len(x))
