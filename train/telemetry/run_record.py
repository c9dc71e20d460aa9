"""Everything a run tells: rows and events on disk, the tracker, the display, at the end a summary and a report.

Only rank 0 tells; on the others every call does nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from data_pipeline.foundation.configuration import Composed
from data_pipeline.foundation.progress import say
from train.telemetry.display import Display
from train.telemetry.recorder import Recorder
from train.telemetry.report import write_report
from train.telemetry.summary import summarize
from train.telemetry.trackers import Tracker, open_tracker
from train.telemetry.withheld import text_without_secrets

if TYPE_CHECKING:
    from train.checkpoint.load import Found
    from train.checkpoint.upload import Sent
    from train.distributed import World
    from train.preflight import Prepared
    from train.settings import TrainConfig
    from train.stragglers import Straggler
    from train.stream import LeftOut


SAMPLE_CHARACTERS = 160


class RunRecord(AbstractContextManager):
    """The telling side of one run.

    Args:
        step: that the run goes on from.
    """

    def __init__(self, composed: Composed[TrainConfig], prepared: Prepared, world: World, step: int):
        self._composed, self._prepared, self._world = composed, prepared, world
        self._folder, self._first_step = prepared.run.path, step
        self._stall_seconds = 0.0
        self._ended = False
        self._closing = ExitStack()
        if world.is_main:
            config = composed.value
            self._recorder = Recorder(self._folder)
            self._tracker: Tracker = open_tracker(
                config.tracker, self._folder, prepared.run.name, composed.data, resume_step=step
            )
            tokens = prepared.batch.sequences * config.data.sequence_length
            self._display = Display(config.steps, step, tokens)

    def begin(self, found: Found) -> None:
        """Say what starts or goes on, and take back what an interrupted run had recorded beyond its checkpoint."""
        if not self._world.is_main:
            return
        for line in self._prepared.lines(self._composed.value):
            say(escape(line))
        self.rejected(self._first_step, found)
        dropped = self._recorder.rewind(self._first_step)
        ranks = self._world.size
        if found.checkpoint is None:
            self._recorder.event("started", 0, ranks=ranks)
        else:
            name = found.checkpoint.name
            if found.fetched_from is not None:
                self._recorder.event("checkpoint_fetched", self._first_step, checkpoint=name, place=found.fetched_from)
                say(f"checkpoint {name} was fetched from {found.fetched_from}")
            self._recorder.event("resumed", self._first_step, checkpoint=name, steps_redone=dropped, ranks=ranks)
            say(escape(f"going on from {found.checkpoint}"))
        self._closing.enter_context(self._display)

    def rejected(self, step: int, found: Found) -> None:
        """Record which checkpoints were not whole when one was looked for."""
        if self._world.is_main:
            for checkpoint, problems in found.rejected:
                self._recorder.event("checkpoint_rejected", step, checkpoint=checkpoint.name, problems=problems)
                self._display.note(f"checkpoint {checkpoint.name} is not used: {'; '.join(problems)}")

    def row(self, row: dict[str, Any]) -> None:
        """Record what a step measured."""
        if self._world.is_main:
            row["checkpoint_stall_seconds"], self._stall_seconds = self._stall_seconds, 0.0
            self._recorder.metrics(row)
            self._tracker.log(row["step"], row)
            self._display.update(row)

    def compiled(self, step: int, seconds: float) -> None:
        """Record what compiling took, in the first step."""
        if self._world.is_main:
            self._recorder.event("compiled", step, seconds=round(seconds, 2))
            self._display.note(f"compiled in {seconds:.1f} s; what was compiled before is taken from the cache")

    def left_out(self, step: int, shard: LeftOut) -> None:
        """Record that from a step on nothing is learnt from a shard."""
        if self._world.is_main:
            self._recorder.event("shard_left_out", step, **asdict(shard))
            self._display.note(
                f"step {step:,}, {shard.file} is left out, and with it {shard.tokens:,} tokens an epoch: {shard.reason}"
            )

    def skipped(self, step: int, reason: str, loss: float, norm: float, numbers: range) -> None:
        """Record that nothing was learnt from a step."""
        if self._world.is_main:
            sequences = [numbers.start, numbers.stop - 1]
            self._recorder.event("step_skipped", step, reason=reason, loss=loss, grad_norm=norm, sequences=sequences)
            self._display.note(f"step {step:,} is skipped: {reason}")

    def nothing_learnt(self, step: int, reason: str) -> None:
        """Record that steps go by from which nothing can be learnt."""
        if self._world.is_main:
            self._recorder.event("nothing_learnt", step, reason=reason)
            self._display.note(f"step {step:,}, {reason}")

    def straggler(self, step: int, slow: Straggler) -> None:
        """Record that a rank has become slow."""
        if self._world.is_main:
            self._recorder.event("straggler", step, **asdict(slow))
            self._display.note(f"step {step:,}: rank {slow.rank} takes {slow.ratio:.2g} times as long as the others")

    def rolled_back(self, step: int, reason: str, checkpoint: Path, numbers: range, times: int) -> None:
        """Record that weights of an earlier step came back, and that nothing is learnt from the sequences since."""
        if self._world.is_main:
            sequences = [numbers.start, numbers.stop - 1]
            details = {"reason": reason, "checkpoint": checkpoint.name, "sequences": sequences, "times": times}
            self._recorder.event("rolled_back", step, **details)
            self._display.note(
                f"step {step:,}: {reason}; going on with the weights of {checkpoint.name}, without what was read since"
            )

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Record text that the model wrote."""
        if self._world.is_main:
            self._recorder.sample(step, prompt, text)
            self._tracker.sample(step, prompt, text)
            self._display.note(f"step {step:,}, “{prompt}”: {' '.join(text.split())[:SAMPLE_CHARACTERS]}")

    def stalled(self, seconds: float) -> None:
        """Count time that training stood still to save; it goes into the next row."""
        self._stall_seconds += seconds

    def saved(self, step: int, checkpoint: Path, seconds: float) -> None:
        """Record a published checkpoint, and how long it took from its step on."""
        if self._world.is_main:
            self._recorder.event("checkpoint_saved", step, checkpoint=checkpoint.name, seconds=seconds)

    def uploaded(self, sent: Sent) -> None:
        """Record what became of a checkpoint that was to be sent elsewhere."""
        details = {"checkpoint": sent.checkpoint, "place": sent.place, "seconds": sent.seconds}
        if sent.problem is None:
            self._recorder.event("checkpoint_uploaded", sent.step, **details)
            return
        self._recorder.event("checkpoint_upload_failed", sent.step, **details, reason=sent.problem)
        self._display.note(f"checkpoint {sent.checkpoint} could not be uploaded, and training goes on: {sent.problem}")

    def failed(self, step: int, error: BaseException) -> None:
        """Record that the run broke."""
        if self._world.is_main and not self._ended:
            self.end("failed", step, 1, reason=text_without_secrets(f"{type(error).__name__}: {error}"))

    def end(self, status: str, step: int, exit_code: int, **details: Any) -> None:
        """Record the end, write summary and report, and close the tracker."""
        if not self._world.is_main:
            return
        self._ended = True
        self._closing.close()
        kind = "preempted" if status == "stopped" else status
        self._recorder.event(kind, step, **details)
        shape, parameters = self._prepared.model, self._prepared.parameters
        model = {"name": shape.name, "parameters": parameters}
        if shape.experts:
            model["active_parameters"] = parameters - shape.idle_parameters
        try:
            summarize(self._folder, status, self._prepared.lineage, model)
            write_report([self._folder], self._folder / "report.html")
        except OSError as error:
            # Both are made of what is recorded, and can be made again.
            say(escape(f"summary and report of {self._folder} can't be written: {error.strerror or error}"))
        self._tracker.finish(exit_code)
        self._recorder.close()
        reason = f" ({details['reason']})" if "reason" in details else ""
        say(escape(f"{status} at step {step:,}{reason}: {self._folder / 'report.html'}"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()
