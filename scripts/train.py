"""Train an experiment, watch it in TensorBoard, test its best checkpoint.

``python scripts/train.py --help`` shows the experiments and the common options.
"""

import time

import console
from training import arguments


def main() -> int | None:
    """Answer ``--help`` without torch; else train."""
    words = console.words()
    if words and words[0] in ("-h", "--help"):
        print(arguments.short_help(), end="")
        return None
    parsed = arguments.split(words)

    from training import session

    return session.train(parsed, started=time.monotonic())


if __name__ == "__main__":
    console.run(main)
