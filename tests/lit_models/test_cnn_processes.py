"""Two processes that train by formulas against autograd in one: gradients averaged, norms of each rank's own batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DistributedSampler

from lit_models import LitCNN

ROOT = Path(__file__).resolve().parents[2]

OPTIONS = {"input_shape": (1, 8, 9), "num_outputs": 3, "channels": (3, 4), "kernel_size": 3, "hidden": 5}
OPTIONS |= {"batch_norm": True, "label_smoothing": 0.1, "schedule": "constant", "learning_rate": 0.01}

SCRIPT = """
import sys
import torch
from lightning.pytorch import Trainer
from lit_models import LitCNN
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.rand(32, 1, 8, 9, dtype=torch.float64)
data = TensorDataset(x, torch.arange(32) % 3)
torch.manual_seed(int(__import__("os").environ.get("LOCAL_RANK", 0)))
model = LitCNN(gradients="explicit", gradient_clip_val=0.5, **{options}).double()
trainer = Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=5, precision="64-true", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(model, DataLoader(data, batch_size=4, shuffle=True))
if trainer.is_global_zero:
    assert trainer.world_size == 2 and trainer.global_step == 20
    torch.save(model.state_dict(), sys.argv[1])
"""


@pytest.mark.processes
def test_two_ranks_equal_autograd_on_the_same_batches(tmp_path):
    script, result = tmp_path / "train.py", tmp_path / "result.pt"
    script.write_text(SCRIPT.replace("{options}", repr(OPTIONS)))
    command = [sys.executable, "-W", "ignore", str(script), str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    kept = torch.load(result, weights_only=True)

    torch.manual_seed(0)
    x, t = torch.rand(32, 1, 8, 9, dtype=torch.float64), torch.arange(32) % 3
    torch.manual_seed(0)
    model = LitCNN(**OPTIONS).double()
    start = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.0)
    samplers = [DistributedSampler(range(32), 2, rank, seed=0) for rank in (0, 1)]  # Lightning's own choice
    for epoch in range(5):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        for parts in zip(*(torch.tensor(list(sampler)).split(4) for sampler in samplers)):
            optimizer.zero_grad()
            for rows in parts:
                (F.cross_entropy(model(x[rows]), t[rows], label_smoothing=0.1) / 2).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    for (name, p), before in zip(model.named_parameters(), start):
        assert (p - before).abs().max() > 1e-3
        torch.testing.assert_close(kept[name], p.detach(), rtol=1e-9, atol=1e-9)
