"""jsonargparse's errors in one line: which option, what is wrong, and the nearest valid name."""

import importlib
import inspect
import re
from collections.abc import Iterable

from console import nearest

PACKAGES = ("lit_models", "datamodules", "callbacks", "lightning.pytorch.callbacks")
SCAFFOLDING = re.compile(
    r"Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Problem with given class_path"
    r"|Expected a path but|Parser key \"(model|data|trainer|checkpoint)"
)


def condense(message: str, options: Iterable[str] = ()) -> str:
    """What a person needs of ``message``, in one line.

    Args:
        message: the text of a jsonargparse error.
        options: every option of the parser, to find the nearest to an unknown one.
    """
    if unknown := re.search(r"Unrecognized arguments: (\S+)|Group '(\S+)' does not accept option '(\S+)'", message):
        name = unknown[1] or f"--{unknown[2]}.{unknown[3]}"
        return str(nearest(name.split("=")[0], options, "option"))
    if unknown := re.search(r"Option '(\w+)' is not accepted", message):
        return _unknown_argument(unknown[1], message)
    if unknown := re.search(r"Expected a dot import path string: (\S+)|Import of module|No module named", message):
        return _unknown_class(_given_class(message) or unknown[1] or "")
    key = re.search(r'Parser key "([\w.]+)"', message)
    lines = [line.strip(" -") for line in message.splitlines()]
    leaves = list(dict.fromkeys(line for line in lines if line and not SCAFFOLDING.match(line)))
    prefix = f"--{key[1]}: " if key else ""
    return prefix + (" ".join(leaves) or lines[0])


def _given_class(message: str) -> str | None:
    """The class path that the message is about."""
    given = re.search(r"class_path '([\w.]+)'|Given value: '?([\w.]+)", message)
    return (given[1] or given[2]) if given else None


def _unknown_argument(name: str, message: str) -> str:
    key = re.search(r'Parser key "([\w.]+)"', message)
    module, _, class_name = (_given_class(message) or "").rpartition(".")
    accepted = inspect.signature(getattr(importlib.import_module(module), class_name)).parameters
    return str(nearest(f"--{key[1] if key else ''}.{name}", (f"--{key[1]}.{a}" for a in accepted), "option"))


def _unknown_class(name: str) -> str:
    short = name.rpartition(".")[2]
    known = {}
    for package in PACKAGES:
        for exported in getattr(importlib.import_module(package), "__all__", ()):
            known.setdefault(exported, f"{package}.{exported}")
    hint = str(nearest(short, known, "class"))
    return hint if short == name else f"{name} cannot be imported: {hint}"
