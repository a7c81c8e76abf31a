"""What ``--resume`` says of changed settings, and which it refuses."""

import pytest

from console import UserError
from training.resuming import changed_settings, check_changes

RUN = {
    "seed_everything": 0,
    "model": {"class_path": "lit_models.LitMLP", "init_args": {"optimizer": "adam", "learning_rate": 0.1}},
    "data": {"class_path": "datamodules.ToyDataModule", "init_args": {"batch_size": 11}},
    "trainer": {"max_epochs": 5, "devices": "auto", "precision": "32-true", "callbacks": [{"class_path": "a"}]},
}


def checkpoint(within: bool):
    return {"loops": {"fit_loop": {"epoch_progress": {"current": {"ready": 3, "processed": 2 if within else 3}}}}}


def with_change(option, value, settings=RUN):
    head, _, rest = option.partition(".")
    return settings | {head: with_change(rest, value, settings[head]) if rest else value}


def test_unchanged_settings_say_nothing():
    assert check_changes(changed_settings(RUN, RUN), checkpoint(True)) is None


@pytest.mark.parametrize(
    ("option", "value", "within", "between"),
    [
        ("seed_everything", 1, "refused", "seed_everything 0 → 1"),
        ("data.init_args.batch_size", 5, "refused", "data.batch_size 11 → 5"),
        ("trainer.devices", 2, "refused", "trainer.devices auto → 2"),
        ("trainer.precision", "64-true", "trainer.precision 32-true → 64-true", "trainer.precision 32-true → 64-true"),
        ("model.init_args.learning_rate", 0.2, "model.learning_rate 0.1 → 0.2", "model.learning_rate 0.1 → 0.2"),
        ("trainer.max_epochs", 9, "trainer.max_epochs 5 → 9", "trainer.max_epochs 5 → 9"),
        ("model.init_args.optimizer", "sgd", "refused", "refused"),
        ("model.class_path", "other.Model", "refused", "refused"),
        ("data.class_path", "other.Data", "refused", "refused"),
    ],
)
def test_each_change_is_told_or_refused(option, value, within, between):
    changed = changed_settings(RUN, with_change(option, value))
    assert list(changed) == [option]
    for cut_short, expected in ((True, within), (False, between)):
        if expected == "refused":
            with pytest.raises(UserError, match=r"start a new run") as error:
                check_changes(changed, checkpoint(cut_short))
            assert "\n" not in str(error.value) and str(value) in str(error.value)
        else:
            assert check_changes(changed, checkpoint(cut_short)) == f"resuming with changed settings: {expected}"
