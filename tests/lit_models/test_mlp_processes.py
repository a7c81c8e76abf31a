"""Two processes against one: the explicit gradients are averaged over ranks."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DistributedSampler

from lit_models import LitMLP

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
import torch
from lightning.pytorch import Trainer
from lit_models import LitMLP
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(32, 3, dtype=torch.float64)
data = TensorDataset(x, x.sin().sum(1, keepdim=True))
torch.manual_seed(int(__import__("os").environ.get("LOCAL_RANK", 0)))
mlp = LitMLP((3,), 1, (6,), weight_decay=0.01, gradient_clip_val=0.5, learning_rate=0.05).double()
trainer = Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=5, precision="64-true", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(mlp, DataLoader(data, batch_size=4, shuffle=True))
if trainer.is_global_zero:
    assert trainer.world_size == 2 and trainer.global_step == 20
    torch.save({"weights": mlp.state_dict(), "loss": trainer.callback_metrics["train/loss"]}, sys.argv[1])
"""


@pytest.mark.processes
def test_two_ranks_equal_one_process_with_the_same_batches(tmp_path):
    script, result = tmp_path / "train.py", tmp_path / "result.pt"
    script.write_text(SCRIPT)
    command = [sys.executable, "-W", "ignore", str(script), str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    kept = torch.load(result, weights_only=True)

    torch.manual_seed(0)
    x = torch.randn(32, 3, dtype=torch.float64)
    t = x.sin().sum(1, keepdim=True)
    torch.manual_seed(0)
    mlp = LitMLP((3,), 1, (6,), weight_decay=0.01, learning_rate=0.05).double()
    start = [p.clone() for p in mlp.parameters()]
    optimizer = mlp.configure_optimizers()
    samplers = [DistributedSampler(range(32), 2, rank, seed=0) for rank in (0, 1)]  # Lightning's own choice
    for epoch in range(5):
        losses = []
        for sampler in samplers:
            sampler.set_epoch(epoch)
        for parts in zip(*(torch.tensor(list(sampler)).split(4) for sampler in samplers)):
            rows = torch.cat(parts)
            loss, gradients = mlp.loss_and_gradients(x[rows], t[rows])
            losses.append(loss)
            mlp.set_gradients(gradients)
            torch.nn.utils.clip_grad_norm_(mlp.parameters(), 0.5)
            optimizer.step()
    assert kept["loss"].item() == pytest.approx(float(torch.stack(losses).mean()), rel=1e-6)
    for (name, p), before in zip(mlp.named_parameters(), start):
        assert (p - before).abs().max() > 1e-3
        torch.testing.assert_close(kept["weights"][name], p.detach(), rtol=1e-6, atol=1e-6)
