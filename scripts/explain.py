"""Explanations from the command line: ``explain.py SUBCOMMAND …``."""

import importlib

import console

SUBCOMMANDS = {
    "saliency": "what in an image speaks for a class: attribution maps at the input and at layers",
    "evaluate": "how far such maps can be trusted: faithfulness, sensitivity, randomisation",
    "features": "what a layer's channels have learned to see: feature visualisation, building blocks",
    "attack": "adversarial images: the smallest change that makes the model wrong",
    "counterfactual": "what would have to be different in an image for another decision",
    "concept": "whether a concept, such as a loop or what a folder's photos share, speaks for a class",
    "page": "all of it for an image or a few, on one page to click through",
}


def usage() -> str:
    """The page that ``--help`` shows."""
    commands = "\n".join(f"  {name:<16}{text}" for name, text in SUBCOMMANDS.items())
    called = console.called("explain")
    return f"usage: {called} SUBCOMMAND …\n\n{commands}\n\n{called} SUBCOMMAND --help shows its options.\n"


def main() -> int | None:
    """Hand over to the subcommand's own file, which alone is imported."""
    words = console.words()
    if not words or words[0] in ("-h", "--help"):
        print(usage(), end="")
        return None if words else console.EXIT_USER_ERROR
    name, *options = words
    if name not in SUBCOMMANDS:
        raise console.nearest(name, SUBCOMMANDS, "subcommand")
    command = importlib.import_module(f"explaining.{name}")
    parser = console.ArgumentParser(prog=f"{console.called('explain')} {name}", description=command.__doc__)
    command.add_arguments(parser)
    return command.run(parser.parse_args(options))


if __name__ == "__main__":
    console.run(main)
