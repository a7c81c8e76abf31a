"""Whether the installed libraries are those that this project states; asked at the start of a command."""

import sys
from collections.abc import Iterator
from importlib import metadata


def outside_stated_range(project: str = "backlit") -> Iterator[str]:
    """``torch 2.7.0 (stated: <3,>=2.8)`` for each library whose version ``project`` does not state.

    Nothing where the project is not installed, so that its requirements cannot be asked.
    """
    from packaging.requirements import Requirement

    try:
        requirements = metadata.requires(project) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            yield f"{requirement.name} {installed} (stated: {requirement.specifier})"


def warn() -> None:
    """Say in one line which libraries are outside the stated range; the command goes on."""
    if found := list(outside_stated_range()):
        print(f"warning: not tested with {', '.join(found)}", file=sys.stderr)
