"""The process beside the training: reads jobs, one folder a line, from stdin until it ends.

Its argument is the folder that holds them all. Run as a script, so that it imports neither torch nor
Lightning. In each folder it finds ``job.npz`` and leaves ``result.npz``, ``figure.png`` and ``tensors.tsv``, or
``animation.gif``; ``error.txt`` where it could not; and last, ``done``.
"""

import json
import shutil
import signal
import sys
import threading
import traceback
from _thread import interrupt_main
from pathlib import Path
from typing import Any


def lay_out(folder: Path, job: dict[str, Any], last: dict[str, Any]) -> None:
    """One layout: coordinates and figures, the picture, and the tensors for TensorBoard's projector.

    ``last`` holds the last features and layout of each key; features that did not change keep theirs.
    """
    import numpy as np
    from drawing import Points, draw_layout, render
    from layout import embed, reduce
    from PIL import Image

    with np.load(folder / "job.npz") as arrays:
        features, labels = arrays["features"], arrays["labels"]
        predictions, held_out = arrays["predictions"], arrays["held_out"]
        previous = arrays.get("previous")
    known_features, layout = last.get(job["key"], (None, None))
    if known_features is None or not np.array_equal(known_features, features):
        previous = previous if layout is None else layout.coordinates
        layout = embed(features, labels, previous, job["perplexity"], job["seed"])
    last[job["key"]] = features, layout
    points = Points(layout.coordinates, labels, predictions, held_out, job["class_names"], job["held_out_name"])
    title = f"{job['title']}\nKL divergence {layout.kl_divergence:.3f}, trustworthiness {layout.trustworthiness:.3f}"
    Image.fromarray(render(draw_layout(points, title))).save(folder / "figure.png")
    np.savetxt(folder / "tensors.tsv", reduce(features), fmt="%.5g", delimiter="\t")
    np.savez_compressed(
        folder / "result.npz",
        class_names=np.array(job["class_names"]),
        labels=labels,
        predictions=predictions,
        held_out=held_out,
        **vars(layout),
    )


def make_animation(folder: Path, job: dict[str, Any]) -> None:
    """One GIF from the saved layouts of several epochs."""
    import numpy as np
    from drawing import Points, animate, save_gif

    frames = []
    for title, path in job["frames"]:
        with np.load(path) as saved:
            arrays = [saved[name] for name in ("coordinates", "labels", "predictions", "held_out")]
            frames.append((title, Points(*arrays, class_names=saved["class_names"].tolist())))
    save_gif(animate(frames), str(folder / "animation.gif"))


def work(folder: Path, last: dict[str, Any]) -> None:
    """Do the job in ``folder`` within its time budget; what goes wrong is left in ``error.txt``."""
    job = json.loads((folder / "job.json").read_text())
    timer = threading.Timer(job["time_budget"], interrupt_main)
    timer.daemon = True
    timer.start()
    try:
        if job["kind"] == "layout":
            lay_out(folder, job, last)
        else:
            make_animation(folder, job)
    except KeyboardInterrupt:
        (folder / "error.txt").write_text(f"TimeoutError: not done within {job['time_budget']:g} s")
    except Exception:
        (folder / "error.txt").write_text(traceback.format_exc().strip().splitlines()[-1])
    finally:
        timer.cancel()
    (folder / "done").touch()


def main() -> None:
    """Import what takes long, then wait for jobs."""
    sys.path.insert(0, str(Path(__file__).parent))
    import drawing  # noqa: F401
    import layout  # noqa: F401

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a command in the background hands down deafness to it
    last: dict[str, Any] = {}
    for line in sys.stdin:
        work(Path(line.rstrip("\n")), last)
    shutil.rmtree(sys.argv[1], ignore_errors=True)  # the training was killed, or it would have ended this first


if __name__ == "__main__":
    main()
