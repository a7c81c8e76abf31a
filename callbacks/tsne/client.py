"""The training's end of the worker process: hand in jobs, pick up what is done, never wait unasked."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

POLL_SECONDS = 0.05
STARTUP_SECONDS = 60.0
MOMENT_SECONDS = 0.5
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass
class Job:
    """What was asked for, and the folder in which the worker answers."""

    options: dict[str, Any]
    folder: Path
    context: dict[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the worker has finished with it, well or not."""
        return (self.folder / "done").exists()

    @property
    def error(self) -> str | None:
        """Why there is no result; None if there is one."""
        path = self.folder / "error.txt"
        return path.read_text() if path.exists() else None

    def discard(self) -> None:
        """Remove its folder: a long run makes many of them."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Worker:
    """One process, one thread, low priority: it lays out while the training goes on.

    It has its own session, so that Ctrl-C reaches the training alone, and ends when its stdin does, so that
    it does not outlive a training that was killed.

    Args:
        time_budget: seconds after which a single job is given up.
    """

    def __init__(self, time_budget: float) -> None:
        self.time_budget = time_budget
        self.jobs: list[Job] = []
        self._process: subprocess.Popen | None = None
        self._root: Path | None = None
        self._count = 0

    def start(self) -> None:
        """Start the process, unless it runs; it imports its libraries meanwhile."""
        if self._process is not None and self._process.poll() is None:
            return
        self._give_up_lost_jobs()
        self._root = self._root or Path(tempfile.mkdtemp(prefix="tsne-"))
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(self._root)]
        if hasattr(os, "nice") and shutil.which("nice"):
            command = ["nice", "-n", "10", *command]
        with (self._root / "stderr.txt").open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=os.environ | dict.fromkeys(THREAD_VARIABLES, "1") | {"CUDA_VISIBLE_DEVICES": ""},
                start_new_session=True,
                text=True,
            )

    def submit(self, options: dict[str, Any], arrays: dict[str, np.ndarray] | None = None, **context: Any) -> Job:
        """Queue a job; ``context`` stays with it on this side."""
        self.start()
        assert self._root is not None and self._process is not None and self._process.stdin is not None
        folder = self._root / f"{self._count:05d}"
        self._count += 1
        folder.mkdir()
        if arrays is not None:
            np.savez(folder / "job.npz", **arrays)  # type: ignore[arg-type]
        (folder / "job.json").write_text(json.dumps(options | {"time_budget": self.time_budget}))
        job = Job(options, folder, context)
        self.jobs.append(job)
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        return job

    def finished(self) -> list[Job]:
        """The jobs done since the last call, in order; those that a process died on are done with an error."""
        self._give_up_lost_jobs()
        done = [job for job in self.jobs if job.done]
        self.jobs = [job for job in self.jobs if job not in done]
        return done

    def wait(self, tell: Callable[[int], None] = lambda waiting: None) -> None:
        """Until all jobs are done, the process has died, or each has used up its budget.

        ``tell`` is given the number of jobs left, once, if the wait takes longer than a moment.
        """
        start = time.monotonic()
        deadline = start + STARTUP_SECONDS + self.time_budget * len(self.jobs)
        told = False
        while (waiting := sum(not job.done for job in self.jobs)) and time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                return
            if not told and time.monotonic() - start > MOMENT_SECONDS:
                tell(waiting)
                told = True
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """End the process, whatever it does, and remove its folder."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):  # a job that it did not live to read
                self._process.stdin.close()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
        self._process, self._root, self.jobs = None, None, []

    def _give_up_lost_jobs(self) -> None:
        """Once the process has died: what it did not finish gets the reason for its error."""
        if self._process is None or self._process.poll() is None:
            return
        for job in self.jobs:
            if not job.done:
                reason = f"the worker ended with code {self._process.returncode}: {self._last_words()}"
                (job.folder / "error.txt").write_text(reason)
                (job.folder / "done").touch()

    def _last_words(self) -> str:
        assert self._root is not None
        lines = (self._root / "stderr.txt").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
