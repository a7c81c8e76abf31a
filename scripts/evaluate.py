"""The test stage of a finished run: ``evaluate.py CHECKPOINT [--data.… --trainer.…]``."""

from pathlib import Path

import console
from training import arguments

HELP = """usage: {command} CHECKPOINT [--data.… --trainer.…]

Repeat the test stage of a finished run from one of its checkpoints (or the run's folder: its best).
The run's own config.yaml rebuilds model and data; any option of train.py overrides it. Pictures go into the
run's folder, under evaluation/.
"""


def main() -> int | None:
    """Rebuild the run that wrote the checkpoint and test it."""
    words = console.words()
    if not words or words[0] in ("-h", "--help"):
        print(HELP.format(command=console.called("evaluate")), end="")
        return None if words else console.EXIT_USER_ERROR
    path = Path(words[0])
    checkpoint = path / "checkpoints" / "best.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise console.UserError(f"there is no checkpoint {checkpoint}")
    config = arguments.config_beside(checkpoint)
    pictures = f"--trainer.default_root_dir={config.parent / 'evaluation'}"
    parsed = arguments.Arguments(config.parent.parent.name, [config], [pictures, *words[1:]])

    from training import session

    return session.evaluate(parsed, checkpoint)


if __name__ == "__main__":
    console.run(main)
