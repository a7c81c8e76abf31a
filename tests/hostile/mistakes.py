"""Every mistake on every command line that ends in a message, with the words that put it right.

Where the message itself suggests another name ("did you mean 'digits'?", "there are: …") the remedy is taken from
it; where a remedy is written here, the message must name the option or the file that it changes.
"""

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """Words that end in a message, and those that do not; ``remedy`` None: take the one that the message names."""

    command: str
    words: str
    remedy: str | None = None

    @property
    def arguments(self) -> list[str]:
        """The mistaken words."""
        return shlex.split(self.words)


def _of(command: str, *rows: str | tuple[str, str]) -> list[Mistake]:
    return [Mistake(command, row) if isinstance(row, str) else Mistake(command, *row) for row in rows]


TINY = "--model best.ckpt --samples 1"
FEW = "--n-steps 2 --n-squares 2 --n-noises 1 --n-stages 1"
CONCEPT = "--model best.ckpt --samples 20 --layer stages.0"
CHANNEL = "--model best.ckpt --steps 1 --layer stages.0 --channel"
QUICK = f"{TINY} --method Saliency --layer input"

MISTAKES = [
    *_of(
        "train",
        "digit",
        ("toy digits", "toy"),
        ("--config absent.yaml", "--config good.yaml"),
        ("digits --config", "digits --config good.yaml"),
        ("--config broken.yaml", "--config good.yaml"),
        ("--config list.yaml", "--config good.yaml"),
        ("--config latin.yaml", "--config good.yaml"),
        ("--config deep.yaml", "--config good.yaml"),
        ("--config section.yaml", "--config good.yaml"),
        ("--config nodata.yaml", "--config nodata.yaml --data DigitsDataModule"),
        ("--resume absent", "--resume run"),
        ("toy --resume run", "--resume run"),
        ("--resume run --resume run", "--resume run"),
        ("--resume broken.ckpt", "--resume run"),
        ("--resume lonely.ckpt", "--resume run"),
        ("--resume run/checkpoints/broken.ckpt", "--resume run/checkpoints/last.ckpt"),
        ("--resume run/checkpoints/hostile.ckpt", "--resume run/checkpoints/last.ckpt"),
        ("--resume run/checkpoints/weights.ckpt", "--resume run/checkpoints/last.ckpt"),
        ("--resume run/checkpoints/other.ckpt", "--resume run/checkpoints/last.ckpt"),
        "toy --trainer.max_epoch 3",
        "toy --modle.hidden [3]",
        "toy --model.hiden [3]",
        "toy --data.batchsize 3",
        ("toy --trainer.max_epochs many", "toy --trainer.max_epochs 3"),
        ("toy --trainer.gradient_clip_val small", "toy --trainer.gradient_clip_val 1"),
        ("toy --trainer.enable_progress_bar maybe", "toy --trainer.enable_progress_bar false"),
        ("toy --trainer 5", "toy --trainer.max_epochs 5"),
        ("toy --trainer.accelerator gpuu", "toy --trainer.accelerator cpu"),
        ("toy --trainer.accelerator cpu --trainer.devices abc", "toy --trainer.accelerator cpu --trainer.devices 1"),
        ("toy --checkpoint.mode big", "toy --checkpoint.mode max"),
        ("toy --checkpoint.every_n_epochs 0", "toy --checkpoint.every_n_epochs 1"),
        ("toy --seed_everything -1", "toy --seed_everything 0"),
        "toy --model LitMPL",
        "toy --model lit_models.LitMPL",
        ("toy --model torch.nn.Linear", "toy --model lit_models.LitMLP"),
        ("toy --model no_such_package.Net", "toy --model lit_models.LitMLP"),
        "toy --data ToyData",
        "toy --trainer.callbacks+=EarlyStoping",
        ("toy --trainer.callbacks+=EarlyStopping", "toy --trainer.callbacks+=callbacks.EarlyStopping"),
        ("toy --trainer.callbacks+=callbacks.EarlyStopping --trainer.callbacks.patience x",
         "toy --trainer.callbacks+=callbacks.EarlyStopping --trainer.callbacks.patience 3"),
        ("toy --model.hidden 3", "toy --model.hidden [3]"),
        ("toy --model.hidden [0]", "toy --model.hidden [1]"),
        "toy --model.activation tanhh",
        "toy --model.optimizer adamm",
        ("toy --model.learning_rate 0", "toy --model.learning_rate 0.1"),
        ("toy --model.dropout 1", "toy --model.dropout 0.5"),
        ("toy --model.weight_decay -1", "toy --model.weight_decay 0"),
        ("toy --model.input_shape [2]", "toy"),
        ("toy --model.input_shape [2", "toy --model.input_shape [1]"),
        ("toy --data.held_out [11]", "toy --data.held_out [10]"),
        ("toy --data.held_out [1,1]", "toy --data.held_out [1]"),
        ("toy --data.batch_size 0", "toy --data.batch_size 1"),
        ("digits --model.channels [8,8,8,8,8]", "digits --model.channels [8,8]"),
        ("digits --model.kernel_size 4", "digits --model.kernel_size 3"),
        ("digits --model.dropout 2", "digits --model.dropout 0.5"),
        ("digits --model.betas [0.9]", "digits --model.betas [0.9,0.99]"),
        ("digits --model.std 0", "digits --model.std 1"),
        ("digits --data.scale 1", "digits --data.scale 0.5"),
        ("digits --model LitCNN --data ToyDataModule", "toy"),
    ),
    *_of(
        "evaluate",
        ("absent", "run"),
        ("lonely.ckpt", "run"),
        ("run/checkpoints/broken.ckpt", "run/checkpoints/best.ckpt"),
        ("run/checkpoints/hostile.ckpt", "run/checkpoints/best.ckpt"),
        ("run/checkpoints/other.ckpt", "run/checkpoints/best.ckpt"),
        "run --data.batchsize 3",
    ),
    *_of("explain", "salience image.png --model best.ckpt --layer input"),
    *_of(
        "explain saliency",
        ("image.png", f"image.png {QUICK}"),
        "image.png --model squeezenet1_2 --method Saliency --layer input",
        ("image.png --model squeezenet1_0 --weights absent.pth", "image.png --model squeezenet1_0 --layer input"),
        ("image.png --model squeezenet1_0 --weights notes.txt", "image.png --model squeezenet1_0 --layer input"),
        ("image.png --model squeezenet1_0 --weights best.ckpt", f"image.png {QUICK}"),
        ("--model squeezenet1_0", "image.png --model squeezenet1_0 --layer input"),
        (f"{QUICK} --weights best.ckpt", QUICK),
        ("--model absent.ckpt", QUICK),
        ("--model notes.txt", QUICK),
        ("--model hostile.ckpt", QUICK),
        ("--model other.ckpt", QUICK),
        ("image.png --model absent_networks:Net", f"image.png {QUICK}"),
        ("image.png --model timm:resnet_18", f"image.png {QUICK}"),
        (f"image.png {QUICK} --device gpu", f"image.png {QUICK} --device cpu"),
        (f"image.png {QUICK} --size none", f"image.png {QUICK} --size 28"),
        (f"image.png {QUICK} --mean none", f"image.png {QUICK} --mean 0.1"),
        (f"image.png {QUICK} --mean 0.1,0.2", f"image.png {QUICK} --mean 0.1"),
        (f"image.png {QUICK} --classes notes.txt", f"image.png {QUICK}"),
        (f"image.png {QUICK} --model-args [1]", f"image.png {QUICK}"),
        (f"absent.png {QUICK}", f"image.png {QUICK}"),
        (f"notes.txt {QUICK}", f"image.png {QUICK}"),
        (f"empty {QUICK}", f"image.png {QUICK}"),
        (f"blank.png {QUICK}", f"image.png {QUICK}"),
        (f"bomb.png {QUICK}", f"image.png {QUICK}"),
        f"{TINY} --layer input --method Salency",
        f"{TINY} --method Saliency --layer stage.0",
        (f"{TINY} --method GradCAM --layer input", f"{TINY} --method GradCAM --layer stages.0"),
        (f"{QUICK} --target eleven", f"{QUICK} --target 1"),
        (f"{QUICK} --target 10", f"{QUICK} --target 9"),
        ("--model best.ckpt --samples 0 --layer input", QUICK),
        (f"{QUICK} --samples few", QUICK),
        (f"{QUICK} --data digit", f"{QUICK} --data digits"),
        (f"{QUICK} --split tests", f"{QUICK} --split test"),
        f"{QUICK} --outptu here",
        (f"{QUICK} --output notes.txt/here", f"{QUICK} --output here"),
    ),
    *_of(
        "explain evaluate",
        f"{TINY} --method Salency --n-stages 1",
        (f"{TINY} --method Saliency --n-steps 0", f"{TINY} --method Saliency {FEW}"),
        (f"{TINY} --method Saliency --radius -1", f"{TINY} --method Saliency {FEW}"),
    ),
    *_of(
        "explain features",
        ("--model best.ckpt --steps 1 --channel 0", "--model best.ckpt --steps 1 --channel 0 --layer stages.0"),
        (f"{CHANNEL} 99", f"{CHANNEL} 1"),
        ("--model best.ckpt --steps 0", "--model best.ckpt --steps 1"),
        ("--model best.ckpt --steps 1 --size 4097", "--model best.ckpt --steps 1 --size 28"),
        ("--model best.ckpt --steps 1 --seed 99999999999", "--model best.ckpt --steps 1 --seed 4294967295"),
        ("--model best.ckpt --steps 1 --size 2", "--model best.ckpt --steps 1 --size 28"),
        ("--model best.ckpt --steps 1 --l1 nan", "--model best.ckpt --steps 1 --l1 0.1"),
        "--model best.ckpt --steps 1 --parameterization fourrier",
        ("--model squeezenet1_0 --steps 1", "--model squeezenet1_0 --steps 1 --class 0 --size 64"),
    ),
    *_of(
        "explain attack",
        f"{TINY} --steps 1 --method Salency",
        (f"{TINY} --attack fgsm --norm l2", f"{TINY} --attack pgd --norm l2 --steps 1"),
        (f"{TINY} --attack deepfool --epsilon 0.1", f"{TINY} --attack pgd --epsilon 0.1 --steps 1"),
        (f"{TINY} --steps 0", f"{TINY} --steps 1"),
        (f"{TINY} --steps 1 --epsilon small", f"{TINY} --steps 1 --epsilon 2/255"),
        (f"{TINY} --steps 1 --epsilon -1", f"{TINY} --steps 1 --epsilon 0"),
        (f"{TINY} --steps 1 --attack bim", f"{TINY} --steps 1 --attack pgd"),
    ),
    *_of(
        "explain counterfactual",
        (f"{TINY} --steps 0", f"{TINY} --steps 1"),
        (f"{TINY} --steps 1 --confidence 1", f"{TINY} --steps 1 --confidence 0.9"),
        (f"{TINY} --steps 1 --target eleven", f"{TINY} --steps 1 --target 1"),
    ),
    *_of(
        "explain concept",
        (f"{CONCEPT} --sets 2", f"{CONCEPT} --sets 3"),
        (f"{CONCEPT} --sets 3 --concept absent", f"{CONCEPT} --sets 3 --concept slant"),
        (f"{CONCEPT} --sets 3 --concept empty", f"{CONCEPT} --sets 3 --concept slant"),
    ),
    *_of(
        "explain page",
        (f"{TINY} --steps 1 --pictured 1 --groups 0", f"{TINY} --steps 1 --pictured 1 --groups 1"),
        (f"{TINY} --steps 1 --pictured 51", f"{TINY} --steps 1 --pictured 1 --groups 1"),
        (f"{TINY} --steps 1 --pictured 1 --layer head", f"{TINY} --steps 1 --pictured 1 --layer stages.0"),
        (f"{TINY} --steps 1 --pictured 1 --epsilon -1", f"{TINY} --steps 1 --pictured 1 --epsilon 0.1"),
    ),
    *_of(
        "regression",
        "--activation tanhh",
        ("--updates 30", "--updates 40"),
        ("--learning-rate 0", "--learning-rate 0.1"),
        ("--seeds 0", "--seeds 1"),
        ("--dropouts 0.5", "--dropouts 0 0.5"),
        ("--dropouts 0 1", "--dropouts 0 0.5"),
        ("--weight-decays 0.1", "--weight-decays 0 0.1"),
        ("--seed one", "--seed 1"),
        ("--device gpu --seeds 1 --updates 40", "--device cpu --seeds 1"),
        "--seedz 2",
        ("--output notes.txt/here", "--output here"),
    ),
    *_of("benchmark", "--only mpl", ("--quick 3", "--quick"), "--outptu here"),
    *_of(
        "tune",
        "digit",
        ("toy", "digits"),
        ("digits --trials 0", "digits --trials 1"),
        ("digits --timeout 0", "digits --timeout 1"),
        ("digits --workers 0", "digits --workers 1"),
        ("digits --seeds -1", "digits --seeds 0"),
        ("digits --study a/b", "digits --study a"),
        "digits --trails 3",
        ("--resume run", "digits"),
    ),
]  # fmt: skip
