"""Early stopping by its behaviour: a scripted sequence of metrics, and where that has to end."""

import math
import os
import subprocess
import sys
from pathlib import Path

import lightning.pytorch.callbacks as lightning_callbacks
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from callback_stand_ins import Scripted, quiet_trainer
from callbacks import EarlyStopping
from callbacks.early_stopping import StoppingRule

NAN = math.nan
RULES = [
    # script, options, stops at check, best check (from 0), words in the reason
    ([5, 4, 3, 3, 3, 3, 3], {"patience": 3}, 5, 2, "no progress in 3"),
    ([5, 4, 3, 2, 1], {"patience": 1}, None, 4, ""),
    ([1, 2, 3, 2.5, 4, 4, 4], {"patience": 2, "mode": "max"}, 6, 4, "no progress in 2"),
    ([3, 3, 3], {"patience": 1}, 1, 0, "no progress"),
    ([5, 4.95, 4.9, 4.85], {"patience": 3, "min_delta": 0.1}, None, 3, ""),
    ([5, 4.96, 4.93, 4.91], {"patience": 3, "min_delta": 0.1}, 3, 3, "no progress"),
    ([100, 95, 91, 92], {"patience": 2, "min_delta": 0.1, "relative": True}, 2, 2, "no progress"),
    ([100, 89, 85, 82], {"patience": 2, "min_delta": 0.1, "relative": True}, 3, 3, "no progress"),
    ([-1, -1.05, -1.08], {"patience": 2, "min_delta": 0.1, "relative": True}, 2, 2, "no progress"),
    ([1, 9, 9, 9, 9, 9], {"patience": 2, "warmup": 3}, 4, 0, "no progress in 2"),
    ([1, 99, 99, 99], {"patience": 9, "warmup": 3, "divergence_threshold": 50}, 3, 0, "divergence"),
    ([1, 99, 1], {"patience": 9, "divergence_threshold": 50}, 1, 0, "divergence"),
    ([5, 3, 0.5, 0.1], {"patience": 9, "stopping_threshold": 1}, 2, 2, "threshold 1"),
    ([0.5, 0.9, 0.99], {"patience": 9, "stopping_threshold": 0.95, "mode": "max"}, 2, 2, "threshold"),
    ([5, NAN, 1], {"patience": 9}, 1, 0, "not finite"),
    ([NAN, 5, NAN, NAN, 1], {"patience": 2, "check_finite": False}, 3, 1, "no progress in 2"),
    ([NAN, NAN], {"patience": 2, "check_finite": False}, 1, None, "no progress"),
    ([5, -math.inf, 4], {"patience": 9, "check_finite": False}, None, 2, ""),
    ([math.inf, 3], {"patience": 9, "check_finite": False}, None, 1, ""),
]


@pytest.mark.parametrize(("script", "options", "stop", "best", "reason"), RULES)
def test_rule_stops_where_the_table_says(script, options, stop, best, reason):
    rule = StoppingRule(**options)
    best_seen, stopped = None, None
    for check, value in enumerate(script):
        is_best, why = rule.update(value)
        best_seen = check if is_best else best_seen
        if why is not None:
            stopped = check
            assert reason in why
            break
    assert (stopped, best_seen) == (stop, best)
    assert rule.best == (None if best is None else script[best])


def fit(root, script, callback, *callbacks, batches=1, steps_per_check=1, monitor="val/loss", ckpt=None, **options):
    module = Scripted(script, steps_per_check, monitor)
    trainer = quiet_trainer(root, callback, *callbacks, **{"max_epochs": len(script)} | options)
    validation = DataLoader(torch.zeros(1)) if monitor.startswith("val") else None
    trainer.fit(module, DataLoader(torch.zeros(batches)), validation, ckpt_path=ckpt, weights_only=True)
    return module, trainer


SEQUENCES = [
    # script, patience, trainer options, batches an epoch, steps a check, steps at stop, steps of the best weights
    ([5, 4, 3, 3, 3, 3, 3, 3], 3, {}, 1, 1, 6, 3),
    ([5, 4, 3, 2], 2, {}, 1, 1, 4, 4),
    ([5, 6, 3, 4, 5], 1, {}, 1, 1, 2, 1),
    ([5, 4, 6, 7, 8, 9], 2, {"check_val_every_n_epoch": 2, "max_epochs": 12}, 1, 2, 8, 4),
    ([5, 4, 6, 3, 7, 8, 9], 2, {"val_check_interval": 0.5}, 4, 2, 12, 8),
    ([5, 4, NAN, 1], 9, {}, 1, 1, 3, 2),
]


@pytest.mark.parametrize(("script", "patience", "options", "batches", "per_check", "stop", "best"), SEQUENCES)
def test_training_stops_and_ends_with_the_best_weights(
    tmp_path, script, patience, options, batches, per_check, stop, best
):
    callback = EarlyStopping(patience=patience)
    module, trainer = fit(tmp_path, script, callback, batches=batches, steps_per_check=per_check, **options)
    assert trainer.global_step == stop
    assert module.weight.item() == best


@pytest.mark.parametrize("script", [[5, 4, 3, 3, 3, 3, 2], [1, 2, 3], [3, 2, 1], [4, NAN, 2], [5, 4.9, 4.8, 4.7, 4.6]])
@pytest.mark.parametrize(
    "options", [{"patience": 2}, {"patience": 1, "min_delta": 0.15}, {"patience": 9, "divergence_threshold": 2.5}]
)
def test_agrees_with_lightning(tmp_path, script, options):
    ours, theirs = EarlyStopping(**options), lightning_callbacks.EarlyStopping("val/loss", **options)
    _, our_trainer = fit(tmp_path, script, ours)
    _, their_trainer = fit(tmp_path, script, theirs)
    assert our_trainer.global_step == their_trainer.global_step


BETTER = [1, 2, 2, 2, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
WORSE = [1, 2, 2, 2, 2, 2, 2, 2, 2, 2]
LEAST = [
    # script, trainer options, options, steps at our stop, steps at Lightning's
    (BETTER, {"min_epochs": 8}, {"patience": 2}, 10, 8),  # Lightning: the verdict of epoch 3 is carried out after 8
    (BETTER, {"min_steps": 8}, {"patience": 2}, 10, 8),
    (BETTER, {"min_epochs": 3}, {"patience": 2}, 3, 3),
    (BETTER, {"min_epochs": 4}, {"patience": 2}, 4, 4),
    (BETTER, {"min_epochs": 5}, {"patience": 2}, 10, 5),
    (WORSE, {"min_epochs": 8}, {"patience": 2}, 8, 8),
    (WORSE, {"min_steps": 6}, {"patience": 2}, 6, 6),
    (WORSE, {"min_epochs": 4, "min_steps": 6}, {"patience": 2}, 6, 6),
    ([1, NAN, 0.9, 0.8, 0.7], {"min_epochs": 3}, {"patience": 9}, 5, 3),
    ([1, 99, 0.9, 0.8, 0.7], {"min_epochs": 3}, {"patience": 9, "divergence_threshold": 50}, 5, 3),
    ([1, 0.1, 3, 3, 3], {"min_epochs": 4}, {"patience": 9, "stopping_threshold": 0.5}, 5, 4),
]


@pytest.mark.parametrize(("script", "least", "options", "ours", "lightnings"), LEAST)
def test_a_verdict_before_the_least_training_is_formed_anew(tmp_path, script, least, options, ours, lightnings):
    _, our_trainer = fit(tmp_path, script, EarlyStopping(**options), **least)
    _, their_trainer = fit(tmp_path, script, lightning_callbacks.EarlyStopping("val/loss", **options), **least)
    assert (our_trainer.global_step, their_trainer.global_step) == (ours, lightnings)


@pytest.mark.parametrize(
    ("script", "stop"), [([1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2], 6), ([1, 2, 2, 2, 0.9, 0.8, 2, 2, 0.7, 2, 2, 2], 8)]
)
def test_checks_within_an_epoch_wait_for_the_least_epochs(tmp_path, script, stop):
    options = {"val_check_interval": 0.5, "min_epochs": 3, "max_epochs": 6, "batches": 2}
    _, trainer = fit(tmp_path, script, EarlyStopping(patience=2), **options)
    assert trainer.global_step == stop


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 6, 7, 8])
@pytest.mark.parametrize("script", [BETTER, WORSE])
def test_a_run_resumed_before_the_least_training_decides_as_the_whole_one(tmp_path, script, cut):
    options = {"min_epochs": 8}
    whole, whole_trainer = fit(tmp_path, script, EarlyStopping(patience=2), **options)
    checkpoint = last_checkpoint(tmp_path)
    first = {"enable_checkpointing": True, "max_epochs": cut} | options
    fit(tmp_path, script, EarlyStopping(patience=2), checkpoint, **first)
    module, trainer = fit(tmp_path, script, EarlyStopping(patience=2), ckpt=tmp_path / "last.ckpt", **options)
    assert (trainer.global_step, module.weight.item()) == (whole_trainer.global_step, whole.weight.item())


def test_a_stopped_run_goes_on_where_it_is_asked_for_more_epochs(tmp_path):
    fit(tmp_path, BETTER, EarlyStopping(patience=2), last_checkpoint(tmp_path), enable_checkpointing=True)
    _, stopped = fit(tmp_path, BETTER, EarlyStopping(patience=2), ckpt=tmp_path / "last.ckpt")
    _, longer = fit(tmp_path, BETTER, EarlyStopping(patience=2), ckpt=tmp_path / "last.ckpt", min_epochs=6)
    assert (stopped.global_step, longer.global_step) == (3, 10)


def test_training_metric_without_validation(tmp_path):
    module, trainer = fit(tmp_path, [3, 2, 4, 4, 4], EarlyStopping("train/loss", patience=2), monitor="train/loss")
    assert (trainer.global_step, module.weight.item()) == (4, 2)


def last_checkpoint(root: Path) -> ModelCheckpoint:
    """Overwrites last.ckpt at every check, also after an exception."""
    return ModelCheckpoint(root, filename="last", save_on_exception=True, enable_version_counter=False)


def test_last_checkpoint_holds_the_last_state(tmp_path):
    module, trainer = fit(
        tmp_path, [5, 3, 4, 4, 4], EarlyStopping(patience=2), last_checkpoint(tmp_path), enable_checkpointing=True
    )
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (trainer.global_step, module.weight.item(), last["state_dict"]["weight"].item()) == (4, 2, 4)


class Interrupt(Callback):
    def __init__(self, step: int, error: type[BaseException]):
        self.step, self.error = step, error

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            raise self.error


@pytest.mark.parametrize(("error", "ends"), [(KeyboardInterrupt, SystemExit), (RuntimeError, RuntimeError)])
def test_interruption_restores_the_best_and_saves_the_last(tmp_path, error, ends):
    script = [5, 3, 4, 4, 4]
    module = Scripted(script)
    callbacks = EarlyStopping(patience=9), Interrupt(4, error), last_checkpoint(tmp_path)
    trainer = quiet_trainer(tmp_path, *callbacks, max_epochs=5, enable_checkpointing=True)
    with pytest.raises(ends):
        trainer.fit(module, DataLoader(torch.zeros(1)), DataLoader(torch.zeros(1)))
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (module.weight.item(), last["state_dict"]["weight"].item()) == (2, 4)


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_resumed_run_stops_where_the_uninterrupted_one_does(tmp_path, cut):
    script = [5, 3, 4, 4.5, 5, 1, 1, 1]
    whole, whole_trainer = fit(tmp_path, script, EarlyStopping(patience=3))
    assert (whole_trainer.global_step, whole.weight.item()) == (5, 2)
    checkpoint = last_checkpoint(tmp_path)
    fit(tmp_path, script, EarlyStopping(patience=3), checkpoint, enable_checkpointing=True, max_epochs=cut)
    module, trainer = fit(tmp_path, script, EarlyStopping(patience=3), ckpt=tmp_path / "last.ckpt")
    assert (trainer.global_step, module.weight.item()) == (5, 2)


def test_resuming_a_finished_run_trains_nothing(tmp_path):
    script = [5, 3, 4, 4, 1, 1]
    fit(tmp_path, script, EarlyStopping(patience=2), last_checkpoint(tmp_path), enable_checkpointing=True)
    module, trainer = fit(tmp_path, script, EarlyStopping(patience=2), ckpt=tmp_path / "last.ckpt")
    assert (trainer.global_step, module.weight.item()) == (4, 2)


def test_missing_metric_names_those_that_exist(tmp_path):
    with pytest.raises(ValueError, match=r"'val/los'.*did you mean 'val/loss'"):
        fit(tmp_path, [1, 2], EarlyStopping("val/los"))


@pytest.mark.parametrize(
    "options", [{"mode": "up"}, {"patience": 0}, {"min_delta": -1.0}, {"min_delta": NAN}, {"warmup": -1}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        EarlyStopping(**options)


def test_stop_message_has_metric_epoch_value_and_reason(tmp_path, caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit(tmp_path, [5, 3, 4.25, 4.5], EarlyStopping(patience=2))
    message = next(text for text in caplog.messages if "EarlyStopping" in text)
    for part in ("epoch 3", "val/loss = 4.5", "no progress in 2 checks", "best 3 in epoch 1"):
        assert part in message


TWO_RANKS = """
import sys, torch
from callback_stand_ins import Scripted, quiet_trainer
from callbacks import EarlyStopping
from torch.utils.data import DataLoader

class Unsynchronised(Scripted):
    def value(self, steps):  # the ranks see different sequences: the first one's has to decide
        return super().value(steps) + 100 * self.trainer.global_rank * steps

module = Unsynchronised([5, 3, 4, 4, 4, 4])
callback = EarlyStopping(patience=2)
trainer = quiet_trainer(sys.argv[1], callback, devices=2, strategy="ddp", max_epochs=6, use_distributed_sampler=False)
trainer.fit(module, DataLoader(torch.zeros(1)), DataLoader(torch.zeros(1)))
open(f"{sys.argv[1]}/rank{trainer.global_rank}", "w").write(f"{trainer.global_step} {module.weight.item()}")
"""


@pytest.mark.processes
def test_two_ranks_agree(tmp_path):
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    subprocess.run([sys.executable, script, tmp_path], env=environment, check=True)
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["4 2.0", "4 2.0"]


def test_resuming_a_finished_run_says_why_nothing_happens(tmp_path, caplog):
    script = [5, 3, 4, 4, 1, 1]
    fit(tmp_path, script, EarlyStopping(patience=2), last_checkpoint(tmp_path), enable_checkpointing=True)
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit(tmp_path, script, EarlyStopping(patience=2), ckpt=tmp_path / "last.ckpt")
    said = [text for text in caplog.messages if "nothing to train" in text]
    assert len(said) == 1 and "epoch 3: val/loss, no progress in 2 checks" in said[0]


def test_a_module_that_saves_only_part_of_itself(tmp_path):
    class Partial(Scripted):
        def __init__(self, script):
            super().__init__(script)
            self.frozen = torch.nn.Parameter(torch.ones(()), requires_grad=False)
            self.strict_loading = False

        def state_dict(self, *args, **kwargs):
            return {"weight": self.weight}

    module = Partial([5, 3, 4, 4, 4])
    trainer = quiet_trainer(tmp_path, EarlyStopping(patience=2), max_epochs=5)
    trainer.fit(module, DataLoader(torch.zeros(1)), DataLoader(torch.zeros(1)))
    assert (trainer.global_step, module.weight.item()) == (4, 2)
