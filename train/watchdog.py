"""A thread per rank that sees when the run hangs or a rank is gone, says who and where, and ends the process.

A rank that waits in a collective can do nothing itself, and what it waits in may give up after half an hour or never.
So a thread watches: it writes this rank's sign of life every second, and when no step has ended for `hang_seconds` it
finds who is behind, records an event, writes every thread's stack to `hangs/rank-RRRRR.txt` of the run's folder and
ends the process with exit code 69, which makes launchers start the run again. Ranks watch each other in a ring, so a
death is seen within seconds. The first to see either leaves a note by which all end. If the thread itself can't run,
since C code keeps the interpreter to itself, Python's own watchdog writes the stacks and ends the process with exit
code 1.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.foundation.errors import EXIT_HUNG, Failure
from train.distributed import World
from train.heartbeats import Heartbeat, OwnHeartbeat, has_died, read_heartbeat, this_machine
from train.telemetry.recorder import append_event

POLL_SECONDS = 1.0
SLOW_FACTOR = 6.0
"""How much longer than a step may be what comes now and then."""
LOST_SECONDS = 60.0
"""Silence of another machine after which, if this rank has no progress either, it counts as gone."""
SELF_HELP_SECONDS = 3.0
"""For the main thread to fail by itself and end in good order, and for other ranks to see the verdict."""
FAILURE_CHARACTERS = 300
OWN_WATCH_SECONDS = 30.0
"""How much later than this thread Python's own watchdog acts."""


class RankLost(Failure):
    """The run is over because a rank hangs or is gone."""


@dataclass(frozen=True)
class _Place:
    """Where the main thread is."""

    step: int
    place: int
    phase: str
    since: float
    is_slow: bool


class Watchdog:
    """Watches over one rank. Every rank makes one at the same point; it must be closed.

    Args:
        folder: of the run.
        hang_seconds: see `ClusterConfig`; 0 sees only deaths.
    """

    def __init__(self, folder: Path, world: World, hang_seconds: float):
        self._run, self._world, self._hang_seconds = folder, world, hang_seconds
        self._beats, self._hangs = folder / "heartbeats", folder / "hangs"
        self._note, self._dump = self._beats / "verdict.json", self._hangs / f"rank-{world.rank:05d}.txt"
        self._at = _Place(0, 0, "starting", time.monotonic(), True)
        self._closed = threading.Event()
        self._failure = ""
        if world.is_main:
            shutil.rmtree(self._beats, ignore_errors=True)
        world.barrier()
        self._hangs.mkdir(exist_ok=True)
        self._stacks = open(self._dump, "a", encoding="utf-8")  # noqa: SIM115, it stays open for the run
        self._own = OwnHeartbeat(self._beats, world.rank)
        self._beat(0.0)
        world.barrier()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def at(self, step: int, phase: str, is_slow: bool = False) -> None:
        """Say what the main thread begins. Costs nothing: the thread looks when it wakes."""
        before = self._at
        place = before.place + 1 if before.step == step else 0
        self._at = _Place(step, place, phase, time.monotonic(), is_slow)

    def explain(self, error: BaseException) -> BaseException:
        """Return what an error that ends this rank comes from, and stop watching.

        Where another rank is gone, that is a RankLost which names it; else the error itself, which then is what the
        others are told of this rank.
        """
        if self._world.size > 1 and isinstance(error, RuntimeError) and (verdict := self._await_verdict()):
            self._closed.set()
            return RankLost(f"{verdict}. Start the run again: it goes on from its newest checkpoint")
        self._closed.set()
        self._failure = f"failing: {error}"[:FAILURE_CHARACTERS]
        self.at(self._at.step, "breaking off", is_slow=True)
        self._beat(0.0)
        return error

    def close(self) -> None:
        """Stop watching, and leave in good order; a rank that failed of its own leaves a file that tells the others."""
        if self._stacks.closed:
            return
        self._closed.set()
        self._thread.join(timeout=10)
        faulthandler.cancel_dump_traceback_later()
        self._stacks.close()
        # Each as far as the disk lets us: what ends the run is told by others.
        with contextlib.suppress(OSError):
            if self._dump.stat().st_size == 0:
                self._dump.unlink()
        with contextlib.suppress(OSError):
            if self._failure:
                at = self._at
                self._own.write(at.step, at.place, self._failure, time.monotonic() - at.since)
        self._own.close(in_good_order=not self._failure)
        for folder in (self._hangs, self._beats):
            with contextlib.suppress(OSError):  # not empty, or gone with another rank
                folder.rmdir()

    def _watch(self) -> None:
        place, paused = self._at, 0.0
        woke = silent_since = time.monotonic()
        neighbour, beats_seen = (self._world.rank + 1) % self._world.size, -1
        while not self._closed.wait(POLL_SECONDS):
            now = time.monotonic()
            # The whole process, or machine, may have been asleep: that time says nothing about the step.
            if now - woke > 5 * POLL_SECONDS:
                paused += now - woke
            woke = now
            if self._at is not place:
                place, paused = self._at, 0.0
            stuck = now - place.since - paused
            self._beat(stuck)
            if self._world.size > 1:
                beat = read_heartbeat(self._beats, neighbour)
                if beat is None or beat.beats != beats_seen:
                    silent_since, beats_seen = now, beat.beats if beat else -1
                elif beat.machine != this_machine() and min(now - silent_since, stuck) > LOST_SECONDS:
                    self._judge("rank_lost", beat.step, f"{beat}, and has been silent since", rank=neighbour)
                self._look_for_dead([neighbour])
            if self._hang_seconds and stuck > self._allowed():
                self._judge_hang(place, stuck)
            if reason := self._verdict():
                self._end(reason)

    def _beat(self, stuck: float = math.inf) -> None:
        """Give a sign of life, and have Python's own watchdog wait as long as this rank may still be stuck."""
        at = self._at
        with contextlib.suppress(OSError):  # a disk that is full or away for a while is no reason to end
            self._own.write(at.step, at.place, at.phase, time.monotonic() - at.since)
        if self._hang_seconds:
            left = max(0.0, self._allowed() - stuck) + OWN_WATCH_SECONDS
            faulthandler.dump_traceback_later(left, exit=True, file=self._stacks)

    def _allowed(self) -> float:
        return self._hang_seconds * (SLOW_FACTOR if self._at.is_slow else 1.0)

    def _await_verdict(self) -> str | None:
        """Return why it is over, as soon as a dead rank is seen; None if none is for a few seconds."""
        deadline = time.monotonic() + 3 * POLL_SECONDS
        while time.monotonic() < deadline:
            self._look_for_dead(range(self._world.size))
            if verdict := self._verdict():
                return verdict
            time.sleep(POLL_SECONDS / 10)
        return None

    def _look_for_dead(self, ranks: range | list[int]) -> None:
        for rank in ranks:
            if rank != self._world.rank and has_died(self._beats, rank) and (beat := read_heartbeat(self._beats, rank)):
                self._judge("rank_lost", beat.step, f"{beat}, and its process has ended", rank=rank)

    def _judge_hang(self, place: _Place, stuck: float) -> None:
        """Nothing moves: find out who is behind, once every rank has written where it is."""
        first = {rank: read_heartbeat(self._beats, rank) for rank in range(self._world.size)}
        if not self._pause(3 * POLL_SECONDS) or self._at is not place:
            return
        behind, why = self._behind(first)
        reason = f"no step has ended for {stuck:.0f} s ({place.phase}); {why}"
        self._judge("hung", place.step, reason, rank=behind, seconds=round(stuck, 1))

    def _behind(self, before: dict[int, Heartbeat | None]) -> tuple[int | None, str]:
        """Return the rank that the others wait for, as far as can be known, and how that is known.

        Args:
            before: signs of life of a few seconds ago.
        """
        beats = [beat for rank in before if (beat := read_heartbeat(self._beats, rank))]
        silent = [beat for beat in beats if beat == before[beat.rank] and beat.rank != self._world.rank]
        if silent:
            return silent[0].rank, f"{silent[0]}, and gives no sign of life"
        if len({(beat.step, beat.place) for beat in beats}) > 1:
            last = min(beats, key=lambda beat: (beat.step, beat.place))
            return last.rank, f"{last}, behind the others"
        if self._world.size == 1:
            return 0, "its stack shows where"
        return None, "no rank is behind the others: the network between them may be cut, or a device stuck"

    def _judge(self, kind: str, step: int, reason: str, **details: object) -> None:
        """Write down for all ranks that it is over and why, and record it, unless another rank has been quicker."""
        with contextlib.suppress(OSError):
            note = os.open(self._note, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            os.write(note, json.dumps(reason).encode())
            os.close(note)
            append_event(self._run, kind, step, reason=reason, told_by=self._world.rank, **details)

    def _verdict(self) -> str | None:
        """Return why it is over, if some rank has found that."""
        try:
            return json.loads(self._note.read_bytes())
        except (OSError, ValueError):
            return None

    def _pause(self, seconds: float) -> bool:
        """Let time pass, alive to others; return whether it goes on."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._closed.wait(POLL_SECONDS / 2):
                return False
            self._beat()
        return True

    def _end(self, reason: str) -> None:
        """Write down every thread's stack and end the process, unless the main thread now ends by itself."""
        self._stacks.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {reason}\n")
        self._stacks.flush()
        self._beat()
        faulthandler.dump_traceback(file=self._stacks, all_threads=True)
        # The main thread may be about to fail with more to say, and other ranks have yet to see the verdict.
        if self._pause(SELF_HELP_SECONDS):
            print(f"headrace train: rank {self._world.rank}: {reason}. Stacks: {self._dump}", file=sys.stderr)
            sys.stderr.flush()
            os._exit(EXIT_HUNG)
