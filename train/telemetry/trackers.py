"""Experiment trackers: what a run shows to people elsewhere, while it trains. The only module that knows wandb.

wandb lives in a process of its own, fed through a queue that never blocks: its import, its network, its hooks on
`sys.exit` and its waiting at exit can't stop, slow or fail training, and when training is killed it still writes down
all it was given. This file is that process's program too (see `_serve`), so it imports the standard library alone.

What the server did not take is kept in the run's folder and sent in the order in which it was recorded: before a later
start goes online, and at the run's end. While something earlier waits, the run records offline.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

QUEUE_ROWS = 10_000
FINISH_SECONDS = 20.0
INIT_SECONDS = 15.0
UPLOAD_SECONDS = 15.0
SEND_SECONDS = 30
"""For what earlier starts have kept, before this one goes online: its rows wait, training doesn't. The next goes on."""
SEND_AT_END_SECONDS = 12


@dataclass
class TrackerConfig:
    """Settings of the tracker.

    Args:
        kind: `wandb`, or `none` for the run folder alone.
        project, entity: where the run is filed.
        mode: `online` or `offline`; left out, WANDB_MODE decides, else offline unless the machine is logged in.
        tags: words to find the run by.
    """

    kind: str = "wandb"
    project: str = "headrace"
    entity: str | None = None
    mode: str | None = None
    tags: list[str] = field(default_factory=list)


class Tracker(Protocol):
    """Takes what is measured; never raises, never waits, except `finish`, for a bounded time."""

    problem: str | None

    def log(self, step: int, values: dict[str, Any]) -> None: ...

    def sample(self, step: int, prompt: str, text: str) -> None: ...

    def finish(self, exit_code: int) -> None: ...


def open_tracker(
    config: TrackerConfig, folder: Path, run_name: str, configuration: dict[str, Any], resume_step: int
) -> Tracker:
    """Open the tracker of a run; returns at once.

    Args:
        config: which tracker.
        folder: the run folder; wandb keeps its files and the run's id there, so a resumed run is the same run.
        run_name: what people will see.
        configuration: the run's settings; what looks like a secret is left out.
        resume_step: the step that the run goes on from, 0 for a new run.

    Raises:
        UserError: there is no tracker or mode of that name.
    """
    from data_pipeline.foundation.errors import UserError

    if config.kind not in ("wandb", "none"):
        raise UserError(f"`tracker.kind`: there is no tracker `{config.kind}`; take wandb or none")
    if config.mode not in (None, "online", "offline"):
        raise UserError(f"`tracker.mode`: wandb has no mode `{config.mode}` here; take online or offline")
    if config.kind == "none":
        return NoTracker()
    return WandbTracker(config, folder, run_name, configuration, resume_step)


class NoTracker:
    """Keeps nothing: the run folder is the whole record."""

    problem: str | None = None

    def log(self, step: int, values: dict[str, Any]) -> None:
        pass

    def sample(self, step: int, prompt: str, text: str) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        pass


class WandbTracker:
    """Hands rows to wandb's process; when that falls behind by `QUEUE_ROWS`, rows are dropped and counted."""

    def __init__(
        self, config: TrackerConfig, folder: Path, run_name: str, configuration: dict[str, Any], resume_step: int
    ):
        from train.telemetry.withheld import without_secrets

        self.problem: str | None = None
        self.dropped = 0
        self._folder = folder.resolve()
        self._queue: queue.Queue[dict[str, Any]] = queue.Queue(QUEUE_ROWS)
        self._process: subprocess.Popen[bytes] | None = None
        self._finished = threading.Event()
        try:
            start = {
                "folder": str(self._folder),
                "id": _run_id(folder / "wandb.json"),
                "name": run_name,
                "project": config.project,
                "entity": config.entity,
                "mode": config.mode,
                "tags": list(config.tags),
                "configuration": without_secrets(configuration),
                "resume_step": resume_step,
                "trainer": os.getpid(),
                "init_seconds": INIT_SECONDS,
                "send_seconds": SEND_SECONDS,
            }
        except OSError as error:
            self._report(f"wandb can't start: {error}")
            return
        self._queue.put_nowait(start)
        threading.Thread(target=self._feed, name="wandb", daemon=True).start()

    def log(self, step: int, values: dict[str, Any]) -> None:
        self._put({"step": step, "values": values})

    def sample(self, step: int, prompt: str, text: str) -> None:
        self._put({"step": step, "prompt": prompt, "text": text})

    def finish(self, exit_code: int) -> None:
        """Let wandb write and upload what it has, for `FINISH_SECONDS` at most."""
        deadline = time.monotonic() + FINISH_SECONDS
        if self._process is not None or self.problem is None:
            try:
                self._queue.put({"exit_code": exit_code}, timeout=FINISH_SECONDS)
                self._finished.wait(max(0.0, deadline - time.monotonic()))
            except queue.Full:
                pass
        if self._process is not None and self._process.poll() is None:
            self._report(
                f"wandb isn't done after {FINISH_SECONDS:.0f} s and is left behind. What it had by then is kept, and "
                f"sent when the run is started again, or by `wandb sync --no-skip-online {self._folder}/wandb/run-*`"
            )
            self._process.kill()
        if self.dropped:
            self._report(f"wandb was too slow for {self.dropped:,} rows, which it doesn't have")

    def _put(self, message: dict[str, Any]) -> None:
        if self._finished.is_set():
            return
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self.dropped += 1

    def _feed(self) -> None:
        """Run wandb's process and write it a line per message, until the last one or its death."""
        try:
            self._process = process = subprocess.Popen(
                # -P: the folder of this file must not shadow anybody's modules.
                [sys.executable, "-P", str(Path(__file__).resolve())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            assert process.stdin is not None
            feed = process.stdin
            listener = threading.Thread(target=self._listen, args=(process,), name="wandb-listener", daemon=True)
            listener.start()
            while True:
                message = self._queue.get()
                feed.write(json.dumps(message, default=_plain).encode() + b"\n")
                feed.flush()
                if "exit_code" in message:
                    break
            feed.close()
            process.wait()
            listener.join()
        except BrokenPipeError:
            with contextlib.suppress(OSError):
                feed.close()
            listener.join(1.0)
            self._report("wandb's process ended by itself")
        except Exception as error:
            self._report(f"wandb can't be fed: {error}")
        finally:
            self._finished.set()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._report(line.decode("utf-8", errors="replace").strip())

    def _report(self, problem: str) -> None:
        """Keep the first problem and tell it in one line."""
        if self.problem is None:
            self.problem = problem
            print(f"tracker: {problem}. Training goes on; metrics.jsonl has everything", file=sys.stderr, flush=True)


def _run_id(path: Path) -> str:
    """Return the run's id at wandb, chosen the first time and kept beside the run from then on."""
    from data_pipeline.foundation.files import write_json

    try:
        kept = str(json.loads(path.read_text(encoding="utf-8"))["id"])
        if not re.fullmatch(r"[\w-]{1,64}", kept):
            raise ValueError(f"{kept!r} can't be the id of a run, which is part of a folder's name")
        return kept
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        chosen = secrets.token_hex(6)
        write_json(path, {"id": chosen})
        return chosen


def _plain(value: Any) -> Any:
    """Return what JSON can hold: the number inside a scalar of numpy or torch, else the text of a value."""
    return value.item() if hasattr(value, "item") else str(value)


def _serve() -> int:
    """Be wandb's process: read messages from standard input, say on standard output what goes wrong, else nothing."""
    # Training decides when this ends, by closing the pipe; a signal to the whole job is its to answer.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.nice(10)
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")

    def report(problem: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            print(" ".join(problem.split()), file=channel, flush=True)

    try:
        start = json.loads(sys.stdin.readline())
        logs = Path(start["folder"]) / "wandb"
        logs.mkdir(exist_ok=True)
        log = os.open(logs / "headrace.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        wants_online, run = _open_run(start, report)
        exit_code = _record(run, start["resume_step"], report)
        run.finish(exit_code=exit_code)
        if wants_online and run.offline:
            _send_kept(start, SEND_AT_END_SECONDS)
        elif wants_online:
            # By wandb's own sign, which `wandb sync` leaves and looks for.
            Path(run.settings.sync_file).with_suffix(".wandb.synced").touch()
    except TimeoutError:
        by_hand = f"`wandb sync --no-skip-online {start['folder']}/wandb/run-*`"
        report(
            f"wandb's server didn't take all; the rest is kept and sent when the run is started again, or by {by_hand}"
        )
        return 1
    except ImportError as error:
        report(f"wandb can't be imported ({error}); `pip install wandb`, or set tracker=none")
        return 1
    except Exception as error:
        report(f"wandb gave up: {error}")
        return 1
    return 0


def _open_run(start: dict[str, Any], report: Callable[[str], None]) -> tuple[bool, Any]:
    """Return whether the run is meant to be online, and the run, which records offline where it can't be."""
    import wandb

    mode: Any = start["mode"] or os.environ.get("WANDB_MODE") or ("online" if _logged_in(wandb) else "offline")
    settings = wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        init_timeout=start["init_seconds"],
        finish_timeout=UPLOAD_SECONDS,
        finish_timeout_raises=True,
        stop_fn=lambda: None,
        x_stats_pid=start["trainer"],
    )

    def init(mode: Any) -> Any:
        return wandb.init(
            project=start["project"],
            entity=start["entity"],
            id=start["id"],
            name=start["name"],
            tags=start["tags"],
            config=start["configuration"],
            allow_val_change=True,
            dir=start["folder"],
            resume="allow",
            mode=mode,
            settings=settings,
        )

    later = f"and sends it when the run starts again or ends, or by `wandb sync {start['folder']}/wandb/offline-run-*`"
    if mode != "online":
        return False, init(mode)
    if not _send_kept(start, start["send_seconds"]):
        report(f"wandb can't send what earlier starts have kept, so it records offline, {later}")
        return True, init("offline")
    try:
        return True, init(mode)
    except Exception as error:
        report(f"wandb can't go online ({error}); it records offline, {later}")
        # The service still holds the run's id from the try that failed; only a new service gives it out again.
        wandb.teardown()
        return True, init("offline")


def _kept(start: dict[str, Any]) -> list[Path]:
    """Return what earlier starts of the run have recorded and not sent, from the first on."""
    files = Path(start["folder"]).glob(f"wandb/*run-*-{start['id']}/run-{start['id']}.wandb")
    unsent = [path for path in files if not path.with_suffix(".wandb.synced").exists()]
    return sorted(unsent, key=lambda path: path.parent.name.removeprefix("offline-"))


def _send_kept(start: dict[str, Any], seconds: int) -> bool:
    """Send what is kept by `wandb sync`, which knows how far each was sent; return whether nothing is left."""
    if files := _kept(start):
        # The alarm ends it even if this process is gone by then.
        program = f"import signal; signal.alarm({seconds}); from wandb.cli.cli import cli; cli()"
        subprocess.run(
            [sys.executable, "-P", "-c", program, "sync", "--no-skip-online", *map(str, files)],
            cwd=start["folder"],
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGALRM, signal.SIG_DFL),
        )
    return not _kept(start)


def _logged_in(wandb: Any) -> bool:
    """Tell whether a key for the server is at hand, without asking the server."""
    import netrc
    from urllib.parse import urlsplit

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = wandb.setup().settings
    if settings.api_key:
        return True
    given = os.environ.get("NETRC")
    for path in [Path(given).expanduser()] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(urlsplit(settings.base_url).netloc):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _record(run: Any, resume_step: int, report: Callable[[str], None]) -> int:
    """Log message by message until the last, and return its exit code; without a last one, training was killed."""
    last = resume_step
    for line in sys.stdin:
        message = json.loads(line)
        if "exit_code" in message:
            return int(message["exit_code"])
        # wandb refuses steps that go back, as they do after a rollback: it keeps the first try, metrics.jsonl the last.
        if message["step"] < last:
            continue
        last = message["step"]
        try:
            run.log(message["values"] if "values" in message else {"sample": _sample_page(message)}, step=last)
        except Exception as error:
            report(f"wandb refused what was logged at step {last:,}: {error}")
    return 1


def _sample_page(message: dict[str, Any]) -> Any:
    """Return a sample as a page: unlike a table it is a plain file, which costs no question to the server."""
    import wandb

    prompt, text = html.escape(message["prompt"]), html.escape(message["text"])
    page = f"<meta charset='utf-8'><p style='white-space: pre-wrap'><span style='color: gray'>{prompt}</span>{text}</p>"
    return wandb.Html(page, inject=False)


if __name__ == "__main__":
    sys.exit(_serve())
