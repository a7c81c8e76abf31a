"""jsonargparse's errors in one line: which option, what is wrong, and the nearest valid name."""

import importlib
import inspect
import re
from collections.abc import Iterable

from lightning import Callback, LightningDataModule, LightningModule

from console import nearest, shorten

BASES = (LightningModule, LightningDataModule, Callback)

PACKAGES = {
    "model": ("lit_models",),
    "data": ("datamodules",),
    "trainer.callbacks": ("callbacks", "lightning.pytorch.callbacks"),
}
SCAFFOLDING = re.compile(
    r"Does not validate|Subtypes:|Errors:|Given value|Expected a (<class ')?NoneType|Problem with given class_path"
    r"|Expected a path but|Parser key |'\w+' object |argument of type "
)
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list such as [1, 2]",
    "Sequence": "a list such as [1, 2]",
    "tuple": "a list such as [1, 2]",
    "dict": "a map such as {a: 1}",
}


def condense(message: str, options: Iterable[str] = ()) -> str:
    """What a person needs of ``message``, in one line.

    Args:
        message: the text of a jsonargparse error.
        options: every option of the parser, to find the nearest to an unknown one.
    """
    if unknown := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
        if not unknown[1].startswith("-"):
            return f"unexpected word {unknown[1]!r}; only an experiment's name stands before the options"
        return str(_unknown_option(unknown[1].split("=")[0], options))
    if unknown := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        return str(nearest(f"--{unknown[1]}.{unknown[2]}", options, "option"))
    required = re.search(r"Option '([\w.]+)' is required", message)  # how some versions of jsonargparse say it
    if required or "arguments are required" in message:
        missing = required[1] if required else message.rpartition(": ")[2]
        return f"nothing says which {missing} to use; give --{missing}, or a configuration file that holds '{missing}:'"
    if unknown := re.search(r"accelerator='(\w*)'`. Available names are: ([\w, ]+)", message):
        return str(nearest(unknown[1], [*unknown[2].split(", "), "gpu"], "accelerator"))
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    key = ".".join(keys)
    if unknown := re.search(r"Unable to load config '(.*)'", message):
        return f"--{keys[0]} must hold options of its own, not {unknown[1]}; give one of them as --{keys[0]}.NAME"
    if len(keys) > 1 and (wanted := _wanted(message)):
        return f"--{key} must be {wanted}, not {_given_value(message)}"
    if not key and (unknown := re.search(r"Option '([\w.]+)' is not accepted", message)):
        return str(nearest(f"--{unknown[1].split('.')[0]}", (name for name in options if "." not in name), "option"))
    if unknown := re.search(r"Option '(\w+)' is not accepted", message):
        return _unknown_argument(key, unknown[1], message)
    if unknown := re.search(r"Expected a dot import path string: (\S+)", message):
        return f"--{key}: {nearest(unknown[1], exported_names(key), 'class')}"
    if unknown := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        package = importlib.import_module(unknown[1])
        known = getattr(package, "__all__", None) or [name for name in vars(package) if name[0] != "_"]
        return f"--{key}: {nearest(unknown[2], known, f'class of {unknown[1]}')}"
    if unknown := re.search(r"(Problem with import path|Import of module).*|No module named .*", message):
        return f"--{key}: {unknown[0]}"
    if base := re.search(r"(?:valid|to a) subclass of (\w+)", message):
        given = shorten(_given_value(message), 80)
        return f"--{key} must name a {base[1]}, or hold class_path and init_args of one, not {given}"
    if wanted := _wanted(message):
        return f"--{key} must be {wanted}, not {shorten(_given_value(message), 80)}"
    lines = [line.strip().removeprefix("- ").removesuffix(".") for line in message.splitlines()]
    leaves = list(dict.fromkeys(line for line in lines if line and not SCAFFOLDING.match(line)))
    text = " ".join(leaves) or lines[0]
    return f"--{key}: {text}" if key else text


def _wanted(message: str) -> str:
    """The kinds of value that would do, in words; empty where the message names none."""
    kinds = []
    for choices, kind in re.findall(r"Expected a (?:typing\.Literal\[(.+?)\]|<class '(?:\w+\.)*(\w+)'>)", message):
        if choices:
            kinds.append(f"one of {choices}".replace("'", ""))
        elif kind != "NoneType":
            kinds.append(KINDS.get(kind, f"a {kind}"))
    if KINDS["float"] in kinds:
        kinds = [kind for kind in kinds if kind != KINDS["int"]]
    return " or ".join(dict.fromkeys(kinds))


def _given_value(message: str) -> str:
    found = re.search(r"val='(.*)'\)|Got value: (.+)|Given value: (.+)", message)
    return next(text for text in found.groups() if text is not None) if found else "that"


def _unknown_option(name: str, options: Iterable[str]) -> Exception:
    """The error for an option that is none; where its group is none, the nearest group's of that name."""
    known = [option for option in options if not option.endswith(".help")]
    group, dot, rest = name.partition(".")
    groups = {option.partition(".")[0] for option in known}
    return nearest(
        name, [f"{option}{dot}{rest}" for option in groups] if dot and group not in groups else known, "option"
    )


def exported_names(key: str = "") -> set[str]:
    """The classes of models, data or callbacks, as ``key`` says: by name, or by path where two have the same name."""
    packages = PACKAGES.get(key.split(".init_args")[0], [package for group in PACKAGES.values() for package in group])
    found: dict[str, list[str]] = {}
    for package in packages:
        module = importlib.import_module(package)
        for name in module.__all__:
            if isinstance(getattr(module, name), type) and issubclass(getattr(module, name), BASES):
                found.setdefault(name, []).append(f"{package}.{name}")
    return {name for short, paths in found.items() for name in (paths if len(paths) > 1 else [short])}


def _given_class(message: str) -> str | None:
    """The class path that the message is about."""
    given = re.search(r"class_path '([\w.]+)'|Given value: '?([\w.]+)", message)
    return (given[1] or given[2]) if given else None


def _unknown_argument(key: str, name: str, message: str) -> str:
    module, _, class_name = (_given_class(message) or "").rpartition(".")
    accepted = inspect.signature(getattr(importlib.import_module(module), class_name)).parameters
    return str(nearest(f"--{key}.{name}", (f"--{key}.{argument}" for argument in accepted), "option"))
