"""What a person can get wrong in configuration files and options, and what of their own they can bring along."""

import os
from pathlib import Path

import pytest
import torch

from console import UserError
from training import arguments, session

FILES = {
    "broken.yaml": "model: [1, 2\n",
    "cycle.yaml": "trainer: &a [*a]\n",
    "list.yaml": "- 1\n",
    "empty.yaml": "",
    "bytes.yaml": b"\xff\xfe\x00",
    "section.yaml": "modle: {class_path: lit_models.LitCNN}\n",
    "option.yaml": "trainer: {max_epoch: 3}\n",
    "number.yaml": "trainer: 5\n",
    "model.yaml": "model: {class_path: lit_models.LitCN}\n",
    "shape.yaml": "model: 3\n",
}

OWN = """
import torch
from lightning import LightningDataModule, LightningModule

class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

class Data(LightningDataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 2)), batch_size=2)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder, from which modules can be imported, with the files above."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("BACKLIT_RUN_DIRECTORY", raising=False)
    yield tmp_path
    os.environ.pop("BACKLIT_RUN_DIRECTORY", None)


ERRORS = [
    (["--config=cycle.yaml"], "cycle.yaml is not valid YAML: a list or map refers to itself"),
    (["--config=broken.yaml"], "broken.yaml is not valid YAML: "),
    (["--config=list.yaml"], "list.yaml must hold settings such as"),
    (["--config=empty.yaml"], "empty.yaml must hold settings such as"),
    (["--config=bytes.yaml"], "bytes.yaml is not a text file in UTF-8"),
    (["--config=section.yaml"], "unknown option '--modle'; did you mean '--model'?"),
    (["--config=option.yaml"], "unknown option '--trainer.max_epoch'; did you mean '--trainer.max_epochs'?"),
    (["--config=number.yaml"], "--trainer must hold options of its own, not 5"),
    (["--config=model.yaml"], "--model: unknown class of lit_models 'LitCN'; did you mean 'LitCNN'?"),
    (["--config=shape.yaml"], "--model must name a LightningModule, or hold class_path and init_args of one, not 3"),
    (["toy"], "unexpected word 'toy'"),
    (["--trainer.devices=abc", "--trainer.accelerator=cpu"], "`devices` selected with `CPUAccelerator`"),
    (["--trainer.accelerator=gpuu"], "unknown accelerator 'gpuu'; did you mean 'gpu'?"),
    (["--seed_everything=-3"], "--seed_everything must be from 0 to 4294967295, got -3"),
    (["--checkpoint.every_n_epochs=0"], "--checkpoint.every_n_epochs must be at least 1, got 0"),
    (["--model.input_shape=[1,28"], "--model.input_shape is not valid YAML"),
    (["--model.channels=[0]"], "channels must be in [1, inf), got 0"),
    (["--model.hidden=0"], "hidden must be in [1, inf), got 0"),
    (["--model.betas=[0.9]"], "betas must be two numbers in [0, 1), got [0.9]"),
    (["--model.mean=[0.1,0.2]"], "mean must be one number, or one for each of 1 channels"),
    (["--model.std=0"], "std must be above 0"),
    (["--data=ToyDataModule", "--data.held_out=[]"], "LitCNN takes images of input_shape (C, H, W), got (1,)"),
]


@pytest.mark.parametrize(("words", "message"), ERRORS, ids=[" ".join(words) for words, _ in ERRORS])
def test_errors_name_what_is_wrong_and_leave_nothing_behind(here, words, message):
    with pytest.raises(UserError) as error:
        session.build(arguments.split(["digits", *words]))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(here.glob("runs/*/*"))


def test_a_model_that_asks_for_no_shape_needs_none_from_the_data(here):
    (here / "own_parts.py").write_text(OWN)
    words = ["digits", "--model=own_parts.Net", "--data=own_parts.Data", "--trainer.callbacks=[]"]
    cli = session.build(arguments.split([*words, "--trainer.accelerator=cpu"]))
    assert type(cli.model).__name__ == "Net" and type(cli.datamodule).__name__ == "Data"
    with pytest.raises(UserError, match="Data does not say its input_shape"):
        session.build(arguments.split(["digits", "--data=own_parts.Data"]))


def test_without_logger_everything_stays_in_the_runs_folder(here):
    cli = session.build(arguments.split(["digits", "--trainer.logger=false", "--trainer.accelerator=cpu"]))
    assert cli.folder is not None and Path(cli.trainer.default_root_dir).resolve() == cli.folder.resolve()
    assert "LearningRateMonitor" not in [type(callback).__name__ for callback in cli.trainer.callbacks]


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "other model"])
def test_a_checkpoint_that_cannot_be_resumed_is_named(here, damage):
    cli = session.build(arguments.split(["toy", "--trainer.accelerator=cpu"]))
    cli.save_config()
    assert cli.folder is not None
    last = cli.folder / "checkpoints" / "last.ckpt"
    cli.trainer.strategy.connect(cli.model)
    cli.trainer.save_checkpoint(last, weights_only=True)
    content = torch.load(last, weights_only=True)
    if damage == "other model":
        torch.save(content | {"state_dict": {"a": torch.ones(2)}}, last)
    elif damage == "foreign":
        torch.save({"weights": torch.ones(2)}, last)
    else:
        last.write_bytes(last.read_bytes()[: 300 if damage == "cut" else 0])
    with pytest.raises(UserError, match=r"last\.ckpt (cannot be read|is not a whole checkpoint|does not fit LitMLP)"):
        session.train(arguments.split(["--resume", str(cli.folder)]), started=0.0)


@pytest.mark.parametrize(("words", "monitor"), [([], "train/loss"), (["--data.held_out=[2,5]"], "val/loss")])
def test_the_best_toy_checkpoint_follows_validation_where_there_is_one(words, monitor):
    cli = session.build(arguments.split(["toy", *words, "--trainer.accelerator=cpu"]))
    best, last = cli.trainer.checkpoint_callbacks
    assert (best.monitor, last.monitor) == (monitor, None)


def test_a_loader_that_lightning_makes_anew_still_hands_out_batches(here):
    options = ["--trainer.overfit_batches=2", "--trainer.max_epochs=1", "--model.channels=[4,4]"]
    quiet = ["--trainer.callbacks=[]", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    cli = session.build(arguments.split(["digits", *options, *quiet]))
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.global_step == 2
