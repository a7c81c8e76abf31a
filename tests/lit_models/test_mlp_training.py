"""`LitMLP` under the Trainer: what it does with every option, and what it refuses."""

import math

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lit_models import LitMLP, checks
from oracles import mlp_objective

pytestmark = pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")


def batches(n=6, classes=None, shape=(3,), size=8):
    generator = torch.Generator().manual_seed(4)
    made = []
    for _ in range(n):
        x = torch.randn(size, *shape, generator=generator)
        t = torch.randint(0, classes, (size,), generator=generator) if classes else x.sin().sum(1, keepdim=True)
        made.append((x, t))
    return made


def loader(data):
    return DataLoader(data, batch_size=None)


def fit(mlp, data, val=None, **options):
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "accelerator": "cpu", **options}
    trainer = Trainer(enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=2, **options)
    trainer.fit(mlp, loader(data), loader(val) if val else None)
    return trainer


def make(kind=LitMLP, **options):
    torch.manual_seed(0)
    return kind(**{"input_shape": (3,), "hidden": (7, 5), "learning_rate": 0.02, **options})


class Seeded(LitMLP):
    """Dropout masks that depend on the step alone."""

    def on_train_batch_start(self, batch, batch_idx):
        torch.manual_seed(self.global_step)


def twin(mlp, data, optimizer, epochs=2, every=1, clip=None, schedule=None):
    """The same training by autograd and `torch.optim`."""
    optimizer = optimizer(mlp.parameters())
    schedule = schedule(optimizer) if schedule else None
    for epoch in range(epochs):
        for index, (x, t) in enumerate(data):
            torch.manual_seed(epoch * len(data) + index)
            (mlp_objective(mlp, x, t) / every).backward()
            if (index + 1) % every == 0 or index + 1 == len(data):
                if clip:
                    clip(mlp.parameters())
                optimizer.step()
                optimizer.zero_grad()
                if schedule:
                    schedule.step()
    return mlp


def assert_same_weights(a, b, tolerance=1e-9):
    start = make(**a.hparams)
    for p, q, s in zip(a.parameters(), b.parameters(), start.parameters()):
        assert (p - s).abs().max() > 1e-3
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_two_hundred_steps_equal_the_autograd_twin(loss, dropout):
    outputs = 1 if loss == "mse" else 4
    options = {"loss": loss, "num_outputs": outputs, "weight_decay": 1e-3, "dropout": dropout, "learning_rate": 2e-3}
    data = batches(50, classes=None if loss == "mse" else 4)
    ours, theirs = make(Seeded, **options), make(**options)
    trainer = fit(ours, data, max_epochs=4, precision="64-true")
    assert trainer.global_step == 200
    exact = [(x.double(), t if t.dtype == torch.long else t.double()) for x, t in data]
    twin(theirs.double(), exact, lambda p: torch.optim.Adam(p, lr=2e-3), epochs=4)
    assert_same_weights(ours, theirs)


CASES = {
    "sgd": ({"optimizer": "sgd", "momentum": 0.9, "nesterov": True}, {}),
    "accumulation": ({"optimizer": "sgd", "accumulate_grad_batches": 4}, {"every": 4}),
    "clip by norm": (
        {"optimizer": "sgd", "gradient_clip_val": 0.1},
        {"clip": lambda p: torch.nn.utils.clip_grad_norm_(p, 0.1)},
    ),
    "clip by value": (
        {"optimizer": "sgd", "gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"clip": lambda p: torch.nn.utils.clip_grad_value_(p, 0.01)},
    ),
    "cosine": (
        {"optimizer": "sgd", "schedule": "cosine"},
        {"schedule": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_options_equal_the_autograd_twin(case):
    options, twin_options = CASES[case]
    data = [(x.double(), t.double()) for x, t in batches(10)]
    ours, theirs = make(learning_rate=0.05, **options), make(learning_rate=0.05, **options).double()
    trainer = fit(ours, data, precision="64-true")
    momentum = {k: v for k, v in options.items() if k in ("momentum", "nesterov")}
    twin(theirs, data, lambda p: torch.optim.SGD(p, lr=0.05, **momentum), **twin_options)
    assert_same_weights(ours, theirs)
    assert trainer.global_step == 2 * math.ceil(10 / options.get("accumulate_grad_batches", 1))


def test_adamw_decays_weights_but_never_biases():
    ours, theirs = make(optimizer="adamw", weight_decay=0.5), make(optimizer="adamw", weight_decay=0.5).double()
    data = [(x.double(), t.double()) for x, t in batches(10)]
    fit(ours, data, precision="64-true")
    theirs.hparams.weight_decay = 0.0

    def adamw(_):
        named = list(theirs.named_parameters())
        weights = [p for name, p in named if name.endswith("weight")]
        biases = [p for name, p in named if name.endswith("bias")]
        groups = [{"params": weights, "weight_decay": 0.5}, {"params": biases, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=0.02)

    twin(theirs, data, adamw)
    theirs.hparams.weight_decay = 0.5
    assert_same_weights(ours, theirs)


def test_schedules_advance_by_step_and_by_epoch():
    by_step = fit(make(schedule="one_cycle"), batches(5), max_epochs=4)
    assert by_step.optimizers[0].param_groups[0]["lr"] < 1e-6
    by_epoch = make(schedule="cosine", schedule_interval="epoch", learning_rate=0.1)
    trainer = fit(by_epoch, batches(5), max_epochs=4)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 4
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
    half = fit(make(schedule="cosine", learning_rate=0.1), batches(5), max_epochs=-1, max_steps=10)
    assert half.lr_scheduler_configs[0].scheduler.last_epoch == 10 == half.global_step


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64)])
def test_true_precisions(precision, dtype):
    mlp = make()
    trainer = fit(mlp, batches(), batches(1), precision=precision)
    assert {p.dtype for p in mlp.parameters()} == {dtype}
    assert trainer.callback_metrics["train/loss"] < 1.0


def test_bf16_mixed_keeps_gradients_in_the_parameters_dtype():
    seen = []

    class Watched(LitMLP):
        def on_before_optimizer_step(self, optimizer):
            seen.extend(p.grad.dtype for p in self.parameters())

    torch.manual_seed(0)
    mlp = Watched((3,), 4, (16,), activation="gelu", loss="cross_entropy", learning_rate=0.02)
    trainer = fit(mlp, batches(20, classes=4), max_epochs=3, precision="bf16-mixed")
    assert set(seen) == {torch.float32} and len(seen) == 4 * 60
    assert 0 < trainer.callback_metrics["train/loss"] < math.log(4)


def test_logs_and_checkpoints(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, "best", monitor="val/loss")
    mlp = make(loss="cross_entropy", num_outputs=4, dropout=0.2, hidden=(7,), mean=0.1, std=2.0)
    data = batches(classes=4)
    trainer = fit(mlp, data, data, enable_checkpointing=True, callbacks=[checkpoint])
    assert trainer.global_step == 12
    assert {"train/loss", "val/loss", "val/accuracy"} <= set(trainer.callback_metrics)
    again = LitMLP.load_from_checkpoint(tmp_path / "best.ckpt", weights_only=True)
    metrics = trainer.test(again, loader(data), verbose=False)[0]
    again.eval()
    assert metrics["test/accuracy"] == pytest.approx(float(trainer.callback_metrics["test/accuracy"]))
    expected = sum(float((again(x).argmax(1) == t).float().mean()) for x, t in data) / len(data)
    assert metrics["test/accuracy"] == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(again(data[0][0]), mlp.eval()(data[0][0]))


def test_training_loss_is_the_mean_over_the_epoch():
    mlp, data = make(learning_rate=1e-9, weight_decay=0.1), batches(5)
    trainer = fit(mlp, data, max_epochs=1)
    expected = sum(float(mlp_objective(mlp, x, t).detach()) for x, t in data) / 5
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_clip_val": 1.0}, "model.gradient_clip_val"),
        ({"accumulate_grad_batches": 2}, "model.accumulate_grad_batches"),
        ({"precision": "bf16-true"}, "bf16-true"),
    ],
)
def test_refuses_what_the_trainer_cannot_do_here(options, message):
    with pytest.raises(ValueError, match=message) as refused:
        fit(make(), batches(), **options)
    assert "\n" not in str(refused.value)


def test_refuses_a_schedule_without_an_end():
    with pytest.raises(ValueError, match="max_epochs or max_steps"):
        fit(make(schedule="cosine", schedule_interval="epoch"), batches(), max_epochs=-1, max_time="00:00:00:01")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "tahn"}, "unknown activation 'tahn'; did you mean 'tanh'"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"dropout": -0.1}, "dropout"),
        ({"weight_decay": -1e-3}, "weight_decay must be at least 0, not -0.001"),
        ({"weight_decay": math.nan}, "weight_decay"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"hidden": (10, 0)}, r"hidden must hold positive integers, not \(10, 0\)"),
        ({"nesterov": True}, "nesterov"),
        ({"gradient_clip_val": 0.0}, "gradient_clip_val"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches"),
        ({"loss": "cross_entropy"}, "num_outputs must be at least 2"),
        ({"std": 0.0}, "std must be positive"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_refuses_options(options, message):
    with pytest.raises(ValueError, match=message):
        LitMLP(**options)


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(4, 1), r"\(4, 2\) do not fit input_shape \(3,\)"),
        (torch.zeros(4, 3), torch.zeros(4), r"targets of shape \(4,\)"),
        (torch.full((4, 3), torch.nan), torch.zeros(4, 1), "inputs hold nan"),
        (torch.full((4, 3), torch.inf), torch.zeros(4, 1), "inputs hold inf"),
        (torch.zeros(4, 3), torch.full((4, 1), -torch.inf), "targets hold -inf"),
    ],
)
def test_refuses_bad_data(x, t, message):
    for stage in ("fit", "validate"):
        with pytest.raises(ValueError, match=message):
            if stage == "fit":
                fit(make(), [(x, t)])
            else:
                Trainer(logger=False, enable_progress_bar=False, accelerator="cpu").validate(
                    make(), loader([(x, t)]), verbose=False
                )


def test_refuses_a_label_out_of_range():
    for label in (4, -1):
        data = [(torch.zeros(2, 3), torch.tensor([0, label]))]
        with pytest.raises(ValueError, match=f"class label {label} is not among the 4 classes"):
            fit(make(loss="cross_entropy", num_outputs=4), data)


def test_a_diverging_loss_stops_with_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    good = batches(3)
    wild = [(x, t * 1e30) for x, t in good]

    class Data(torch.utils.data.Dataset):
        epoch = 0

        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 0:
                self.epoch += 1
            return (good if self.epoch <= 2 else wild)[index]

    mlp = make(optimizer="sgd", learning_rate=0.1)
    checkpoint = ModelCheckpoint(tmp_path, "last", save_top_k=1)
    trainer = Trainer(
        max_epochs=9,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[checkpoint],
        accelerator="cpu",
    )
    with pytest.raises(checks.DivergedError, match="at step 6"):
        trainer.fit(mlp, loader(Data()))
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 6
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


@pytest.mark.cuda
def test_trains_on_cuda():
    on_cpu, on_cuda = make(), make()
    fit(on_cpu, batches(), batches(1))
    fit(on_cuda, batches(), batches(1), accelerator="gpu", devices=1)
    for p, q in zip(on_cpu.parameters(), on_cuda.cpu().parameters()):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
