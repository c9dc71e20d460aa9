"""Starts trainings as forks of a process that has all imported, so that one can be killed a hundred times in minutes.

What runs in a fork is the command `train` itself. It is watched from outside the product: Python's audit events say
when a file of a checkpoint is about to be opened, renamed or removed, in whatever thread, and there it is killed.

Usage: forked_trainings.py, which reads a job a line from standard input and answers each with a line; see `kills.py`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import re
import signal
import struct
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from tests.commands import free_port

JOB_SECONDS = 180.0
LAST_WORDS_SECONDS = 5.0
"""So long the other ranks of a dead one may go on, as under a launcher."""


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import_what_it_imports(json.loads(sys.stdin.readline()))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run_job(json.loads(line))), file=answers, flush=True)


def import_what_it_imports(job: dict[str, Any]) -> None:
    """Import what a first training of a few steps has imported, in a fork, when it ends."""
    [code] = run_job({**job, "modules": "modules.json"})
    assert code in (0, 75), code
    for name in json.loads((Path(job["folder"]) / "modules.json").read_text()):
        with contextlib.suppress(ImportError, AttributeError):  # of names that are made up on the way
            importlib.import_module(name)


def run_job(job: dict[str, Any]) -> list[int]:
    """Run a training of one or more ranks to its end; return the ranks' exit codes, negative for a signal's number."""
    ranks, pids = job["ranks"], mmap.mmap(-1, 4 * job["ranks"])
    port = free_port()
    children: dict[int, int] = {}
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            become_rank(job, rank, pids, port)
        os.setpgid(pid, next(iter(children), pid))  # by the parent: a rank may start before the first one leads a group
        children[pid] = rank
        struct.pack_into("i", pids, 4 * rank, pid)
    codes: dict[int, int] = {}
    deadline = time.monotonic() + JOB_SECONDS
    while len(codes) < ranks:
        for pid, rank in children.items():
            if rank not in codes and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                codes[rank] = os.waitstatus_to_exitcode(ended[1])
                if codes[rank]:
                    deadline = min(deadline, time.monotonic() + LAST_WORDS_SECONDS)
                    for other in set(children) - {pid}:
                        send(other, signal.SIGCONT)
        if time.monotonic() > deadline:
            for pid, rank in children.items():
                if rank not in codes:
                    send(pid, signal.SIGKILL)
        time.sleep(0.005)
    return [codes[rank] for rank in range(ranks)]


def become_rank(job: dict[str, Any], rank: int, pids: mmap.mmap, port: int) -> None:
    """Be a rank of a training, and never return."""
    code = 1
    try:
        os.chdir(job["folder"])
        output = os.open(f"output-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if job["ranks"] > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job["ranks"]))
            os.environ.update(LOCAL_WORLD_SIZE=str(job["ranks"]), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        os.environ.update(job["environment"])
        kill = Kill(job["kill"], rank, job["ranks"], pids) if job["kill"] else None
        log_consumed(Path(f"consumed-{job['attempt']:03d}-{rank}.jsonl"), kill)
        if kill:
            sys.addaudithook(kill.on_event)
        from train.__main__ import VERB

        code = VERB.main(job["arguments"])
        if "modules" in job:
            Path(job["modules"]).write_text(json.dumps(list(sys.modules)))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def log_consumed(path: Path, kill: Kill | None) -> None:
    """Write down which sequences each step learns from, with a hash of what is in them."""
    import xxhash

    from train.stream import DatasetStream

    next_step = DatasetStream.next

    def logged(self: DatasetStream, step: int) -> Any:
        found = next_step(self, step)
        rows = [
            [number, xxhash.xxh3_64_hexdigest(tokens.numpy().tobytes() + targets.numpy().tobytes())]
            for batch in found[0]
            for number, tokens, targets in zip(batch.numbers, batch.tokens, batch.targets)
        ]
        with open(path, "a") as file:
            file.write(json.dumps({"step": step + 1, "sequences": rows}) + "\n")
        if kill:
            kill.at_step()
        return found

    DatasetStream.next = logged  # type: ignore[method-assign]


class Kill:
    """Kills at a moment: the `count`-th time that a point is reached, after `delay` seconds.

    Args:
        plan: `point`; `count`; `delay`; `victim`, a rank or "all"; `suspend`, to stop the other ranks before.
        rank: this process's. The point is watched in rank 0, but for `state` and `step`, in the victim's.
    """

    POINTS = ("step", "begin", "shared", "state", "manifest", "publish", "published", "removal", "removing")

    def __init__(self, plan: dict[str, Any], rank: int, ranks: int, pids: mmap.mmap):
        self.point, self.left, self.delay = plan["point"], plan["count"], plan["delay"]
        self.victim, self.suspend, self.ranks, self.pids = plan["victim"], plan["suspend"], ranks, pids
        watcher = plan["victim"] if self.point in ("state", "step") and plan["victim"] != "all" else 0
        self.watches = rank == watcher
        self.is_published = self.is_armed = False

    def on_event(self, event: str, details: tuple[Any, ...]) -> None:
        if self.watches and not self.is_armed and self.reached(event, details) == self.point:
            self.count()

    def at_step(self) -> None:
        if self.watches and not self.is_armed and self.point == "step":
            self.count()

    def reached(self, event: str, details: tuple[Any, ...]) -> str | None:
        """Return the point that an event stands for."""
        if event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            return None
        if self.is_published and "checkpoints" in str(details[0]):
            self.is_published = False
            return "published"
        path = str(details[1] if event == "os.rename" else details[0])
        if event == "os.rename":
            if path.endswith(".removed"):
                return "removal"
            if re.search(r"/step-\d+$", path):
                self.is_published = True
                return "publish"
            return "manifest" if re.search(r"step-\d+\.tmp/manifest\.json$", path) else None
        if event in ("os.remove", "os.rmdir", "shutil.rmtree"):
            return "removing" if ".removed" in path and os.path.exists(path) else None
        if event == "os.mkdir":
            return "begin" if re.search(r"/step-\d+\.tmp$", path) else None
        if isinstance(details[1], str) and "w" in details[1] and re.search(r"/step-\d+\.tmp/", path):
            return "state" if "/state-" in path else "shared"
        return None

    def count(self) -> None:
        self.left -= 1
        if self.left:
            return
        self.is_armed = True
        if self.suspend:
            for rank in range(self.ranks):
                if self.pid(rank) != os.getpid() and rank != self.victim:
                    send(self.pid(rank), signal.SIGSTOP)
        if self.delay:
            threading.Timer(self.delay, self.strike).start()
        else:
            self.strike()

    def strike(self) -> None:
        if self.victim == "all":
            os.killpg(0, signal.SIGKILL)
        send(self.pid(self.victim), signal.SIGKILL)
        if self.pid(self.victim) != os.getpid():
            # The others are to meet the death of this one where they are, not to run on before they can see it.
            time.sleep(0.05)

    def pid(self, rank: int) -> int:
        return struct.unpack_from("i", self.pids, 4 * rank)[0]


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    main()
