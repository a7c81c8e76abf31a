"""Argument lists and configuration files that nobody would write on purpose, from a seeded generator."""

import random
from collections.abc import Callable, Sequence

VALUES = (
    "", " ", "0", "-1", "1e400", "nan", "-inf", "1_0", "0x10", "3.7", "99999999999999999999", "true", "null", "~",
    "None", "digits", "mnist", "toy", "LitCNN", "lit_models.LitCNN", "lit_models", "LitCN", "os.system",
    "builtins.eval", "callbacks.EarlyStopping", "torch.nn.Linear", "no.such.module.Thing", "..", ".", "a.b..c", "/",
    "/dev/null", "/proc", "[]", "[1, 2", "{", "{}", "{a: }", "[[[[[]]]]]", "{class_path: os.system}",
    "{class_path: lit_models.LitCNN}", "{class_path: callbacks.EarlyStopping, init_args: {patience: x}}", "- 1",
    "a: b: c", "&a [*a]", "*a", "!!python/name:os.system", "!!python/object/apply:os.system ['echo ran > ran']",
    "2024-01-01", "0b2", ".inf", "@", "%TAG", "`", "'", '"', "\\", "$HOME", "${oc.env:HOME}", "é", "漢字",
    "\u202egnp.exe", "\u0000", "\x1b[31mred", "\ud83d", "a\nb", "a", "--", "-", "=", "--=", "--help", "-h", "1/0",
    "2/255", "1/", "/1", "1,2,x", "best.ckpt", "run", "broken.ckpt", "notes.txt", "empty", "image.png",
    "squeezenet1_0", "squeezenet", "Saliency", "GradCAM", "saliency", "val", "test", "input", "stages.0", "[", "gpu",
    "cpu",
)  # fmt: skip
MODEL = (
    "learning_rate", "channels", "hidden", "dropout", "kernel_size", "input_shape", "num_outputs", "betas", "std",
    "activation", "loss", "optimizer", "schedule", "init_args", "class_path", "init_args.hidden", "lerning_rate",
)  # fmt: skip
DATA = (
    "batch_size", "data_dir", "val_size", "degrees", "elastic", "held_out", "mirrors", "shuffle_seed", "init_args",
    "batchsize",
)  # fmt: skip
TRAIN = (
    *(f"--model.{name}" for name in MODEL),
    *(f"--data.{name}" for name in DATA),
    *("--trainer.callbacks+", "--trainer.callbacks.patience", "--trainer.callbacks+.init_args"),
    *("--config", "-c", "--resume", "--model+", "--data+"),
)


class Words:
    """Random argument lists and files; the same for the same seed.

    Args:
        seed: decides everything.
        options: the option names of each command line.
        texts: contents of valid configuration files, to be broken.
    """

    def __init__(self, seed: int, options: dict[str, Sequence[str]], texts: Sequence[str]):
        self.random = random.Random(seed)
        self.options, self.texts = options, texts

    def command(self) -> str:
        """One of the command lines; often ``train``, which understands most."""
        return "train" if self.random.random() < 0.3 else self.random.choice(sorted(self.options))

    def arguments(self, command: str, beginnings: Sequence[Sequence[str]]) -> list[str]:
        """One of ``beginnings``, then a few options with values, in which something is often wrong."""
        pick = self.random
        words = list(pick.choice(beginnings)) if pick.random() < 0.9 else []
        for _ in range(pick.randint(0, 4)):
            name, value = pick.choice(self.options[command]), pick.choice(VALUES)
            if pick.random() < 0.15:
                name = self.broken(name)
            form = pick.random()
            words += [f"{name}={value}"] if form < 0.6 else [name, value] if form < 0.9 else [name]
        if pick.random() < 0.15:
            words.insert(pick.randint(0, len(words)), pick.choice(VALUES))
        return words

    def file(self) -> bytes:
        """A configuration file with one to three faults in it."""
        content = self.random.choice(self.texts)
        for _ in range(self.random.randint(1, 3)):
            content = self.random.choice(FAULTS)(content, self.random)
        raw = content.encode(self.random.choice(("utf-8",) * 8 + ("utf-16", "latin-1")), "replace")
        if self.random.random() < 0.1:
            place = self.random.randrange(len(raw) + 1)
            raw = raw[:place] + self.random.randbytes(self.random.randint(1, 8)) + raw[place:]
        return raw

    def broken(self, text: str) -> str:
        """``text`` with one character lost, doubled or replaced."""
        place = self.random.randrange(max(1, len(text)))
        return text[:place] + self.random.choice(("", text[place : place + 1] * 2, "x", ".", "\t")) + text[place + 1 :]


def _cut(text: str, pick: random.Random) -> str:
    return text[: pick.randrange(len(text) + 1)]


def _other_value(text: str, pick: random.Random) -> str:
    lines = text.split("\n")
    n = pick.randrange(len(lines))
    lines[n] = f"{lines[n].partition(':')[0]}: {pick.choice(VALUES)}"
    return "\n".join(lines)


def _swapped_lines(text: str, pick: random.Random) -> str:
    lines = text.split("\n")
    a, b = pick.randrange(len(lines)), pick.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return "\n".join(lines)


def _lost_line(text: str, pick: random.Random) -> str:
    lines = text.split("\n")
    del lines[pick.randrange(len(lines))]
    return "\n".join(lines)


def _other_indent(text: str, pick: random.Random) -> str:
    lines = text.split("\n")
    n = pick.randrange(len(lines))
    lines[n] = pick.choice(("", " ", "   ", "\t", "- ")) + lines[n].lstrip()
    return "\n".join(lines)


def _other_character(text: str, pick: random.Random) -> str:
    n = pick.randrange(len(text) + 1)
    return text[:n] + pick.choice(":{}[]#&*!|>'\"%@`,-?\t\0\x85\ufeffé") + text[n + 1 :]


def _other_key(text: str, pick: random.Random) -> str:
    words = ("trainer", "model", "data", "class_path", "init_args", "checkpoint", "callbacks", "max_epochs", "monitor")
    return text.replace(pick.choice(words), pick.choice((*words, "modle", "", "1", "null", "[a]")), 1)


def _nothing_but(text: str, pick: random.Random) -> str:
    return pick.choice(VALUES)


FAULTS: tuple[Callable[[str, random.Random], str], ...] = (
    _cut,
    _other_value,
    _other_value,
    _swapped_lines,
    _lost_line,
    _other_indent,
    _other_character,
    _other_key,
    _nothing_but,
)
