"""jsonargparse's errors in one line: which option, what is wrong, and the nearest valid name."""

import importlib
import inspect
import re
from collections.abc import Iterable

from console import nearest

PACKAGES = ("lit_models", "datamodules", "callbacks", "lightning.pytorch.callbacks")
SCAFFOLDING = re.compile(
    r"Does not validate|Subtypes:|Errors:|Given value|Expected a (<class ')?NoneType|Problem with given class_path"
    r"|Expected a path but|Parser key |Subclass types expect"
    r"|a class path \(str\)|a dict "
)


def condense(message: str, options: Iterable[str] = ()) -> str:
    """What a person needs of ``message``, in one line.

    Args:
        message: the text of a jsonargparse error.
        options: every option of the parser, to find the nearest to an unknown one.
    """
    if unknown := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
        if not unknown[1].startswith("-"):
            return f"unexpected word {unknown[1]!r}; only an experiment's name stands before the options"
        return str(nearest(unknown[1].split("=")[0], options, "option"))
    if unknown := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        return str(nearest(f"--{unknown[1]}.{unknown[2]}", options, "option"))
    key = ".".join(re.findall(r'Parser key "([\w.]+)"', message))
    if not key and (unknown := re.search(r"Option '([\w.]+)' is not accepted", message)):
        return str(nearest(f"--{unknown[1].split('.')[0]}", (name for name in options if "." not in name), "option"))
    if unknown := re.search(r"Option '(\w+)' is not accepted", message):
        return _unknown_argument(key, unknown[1], message)
    if unknown := re.search(r"Expected a dot import path string: (\S+)", message):
        return str(nearest(unknown[1], exported_names(), "class"))
    if unknown := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        package = importlib.import_module(unknown[1])
        known = getattr(package, "__all__", None) or [name for name in vars(package) if name[0] != "_"]
        return f"--{key}: {nearest(unknown[2], known, f'class of {unknown[1]}')}"
    if unknown := re.search(r"(Problem with import path|Import of module).*|No module named .*", message):
        return f"--{key}: {unknown[0]}"
    lines = [line.strip().removeprefix("- ").removesuffix(".") for line in message.splitlines()]
    leaves = list(dict.fromkeys(line for line in lines if line and not SCAFFOLDING.match(line)))
    text = re.sub(r"<class '(\w+)'>|typing\.Literal", lambda m: m[1] or "one of ", " ".join(leaves) or lines[0])
    if key and (given := re.search(r"Given value: (.+)", message)) and "Got value" not in text:
        text += f". Got value: {given[1]}"
    return f"--{key}: {text}" if key else text


def exported_names() -> set[str]:
    """Every class that a configuration may name without its package."""
    return {name for package in PACKAGES for name in getattr(importlib.import_module(package), "__all__", ())}


def _given_class(message: str) -> str | None:
    """The class path that the message is about."""
    given = re.search(r"class_path '([\w.]+)'|Given value: '?([\w.]+)", message)
    return (given[1] or given[2]) if given else None


def _unknown_argument(key: str, name: str, message: str) -> str:
    module, _, class_name = (_given_class(message) or "").rpartition(".")
    accepted = inspect.signature(getattr(importlib.import_module(module), class_name)).parameters
    return str(nearest(f"--{key}.{name}", (f"--{key}.{argument}" for argument in accepted), "option"))
