"""Worker processes that keep their imports: each takes one job after another and may die without harm.

A worker touches no storage. It sends what it measures, and is told whether to go on.
"""

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, NamedTuple

from console import shorten

REPORT, DONE, FAILED = "report", "done", "failed"
Report = Callable[[float], bool]


class Event(NamedTuple):
    """What a worker says: a measured value (it waits for an answer), a result, or why it has none."""

    worker: "Worker"
    kind: str
    content: Any


class Worker:
    """One process and the pipe to it.

    Args:
        threads: how many threads torch may use in it.
        log: the file that takes what the process prints.
    """

    def __init__(self, threads: int, log: Path):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, threads, log))
        self.job: Any = None  # whatever the pool's user wants to remember of the running job
        # a Ctrl-C goes to the whole group of processes; what follows from it only this one decides
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self.process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()

    def answer(self, stop: bool) -> None:
        """Tell a worker that reported a value whether to stop; one that has died meanwhile will be noticed."""
        with suppress(OSError):
            self.pipe.send(stop)

    def hear(self) -> Event:
        """Its next message; a process that has died says so too."""
        try:
            return Event(self, *self.pipe.recv())
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            hint = "; out of memory?" if code == -signal.SIGKILL else ""
            return Event(self, FAILED, f"its process was {how}{hint}")


class Pool:
    """``size`` workers; those that die are replaced. A context manager: leaving it kills them all."""

    def __init__(self, size: int, log: Path):
        threads = max(1, available_cores() // size)
        self._new = lambda: Worker(threads, log)
        self.workers = [self._new() for _ in range(size)]

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()

    def idle(self) -> list[Worker]:
        """The workers without a job."""
        return [worker for worker in self.workers if worker.job is None]

    def busy(self) -> list[Worker]:
        """The workers with a job."""
        return [worker for worker in self.workers if worker.job is not None]

    def start(self, job: Any, function: Callable[..., Any], *arguments: Any) -> None:
        """Run ``function(report, *arguments)`` in an idle worker; ``job`` comes back with its events."""
        worker = self.idle()[0]
        worker.job = job
        with suppress(OSError):  # it may have died, which ``wait`` will find
            worker.pipe.send((function, arguments))

    def wait(self, seconds: float) -> list[Event]:
        """What the busy workers said within ``seconds``; an event that ends a job leaves ``worker.job`` to read."""
        ready = connection.wait([worker.pipe for worker in self.busy()], seconds)
        return [worker.hear() for worker in self.busy() if worker.pipe in ready]

    def release(self, worker: Worker) -> None:
        """Its job has ended: the worker is free again, or another takes a dead one's place."""
        worker.job = None
        if worker.process.exitcode is not None:
            self.workers[self.workers.index(worker)] = self._new()


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(pipe: connection.Connection, threads: int, log: Path) -> None:
    """A worker's life: take a job, do it, say how it went; end when nobody is there any more."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())

    import torch

    torch.set_num_threads(threads)

    def report(value: float) -> bool:
        pipe.send((REPORT, value))
        return pipe.recv()

    while True:
        try:
            function, arguments = pipe.recv()
            pipe.send(perform(function, report, arguments))
        except (EOFError, OSError):
            return


def perform(function: Callable[..., Any], report: Report, arguments: tuple) -> tuple[str, Any]:
    """The job's result, or in a line why it has none; the log holds the whole story."""
    try:
        return DONE, function(report, *arguments)
    except (EOFError, BrokenPipeError):
        raise
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        return FAILED, shorten(reason, 300)
    finally:
        gc.collect()  # a failed trial's tensors
