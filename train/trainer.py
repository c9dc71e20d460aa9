"""The training loop: batches in, steps done, everything recorded, a checkpoint whenever the run may end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipeline.foundation.configuration import Composed
from data_pipeline.foundation.errors import EXIT_STOPPED_EARLY, Failure
from data_pipeline.foundation.progress import say
from data_pipeline.loader import Batch
from train.checkpoint.folder import step_of
from train.checkpoint.load import Found, find_newest_whole, load_checkpoint, load_transformer, load_weights
from train.checkpoint.pieces import optimizer_steps
from train.checkpoint.remote import RemoteCheckpoints
from train.checkpoint.save import CheckpointContext, TrainerState, loss_scaler_of, seed_random_state
from train.checkpoint.upload import Uploader
from train.checkpoint.writer import CheckpointWriter
from train.compilation import compile_seconds
from train.distributed import World
from train.engine import Engine, StepResult
from train.frozen import Frozen
from train.guard import Guard, given_up
from train.hardware import peak_flops, peak_memory, slow_format_warning
from train.model.transformer import Transformer
from train.objective import build_objective
from train.objective.group_relative import GroupRelativePolicy
from train.objective.rollouts import Rollouts, build_rollouts
from train.precision import DTYPES
from train.preflight import Prepared
from train.replicas import check_replicas
from train.run_folder import check_run, open_run
from train.samples import write_samples
from train.schedule import rate_factor
from train.settings import TrainConfig
from train.stopping import StopRequests
from train.stragglers import Stragglers
from train.telemetry.run_record import RunRecord
from train.time_limit import TimeLimit
from train.validation import Validation
from train.watchdog import RankLost, Watchdog

PATIENCE, LOST_PATIENCE = 10.0, 3.0
"""Seconds that a run that breaks off waits for its ranks' parts of a checkpoint, and where one of them is gone."""


class Trainer:
    """One run of one process among `world`.

    Args:
        composed: the settings as an object and as plain data.
        prepared: what preflight settled: batch, model, data, run folder.
    """

    def __init__(self, composed: Composed[TrainConfig], prepared: Prepared, world: World):
        self.config, self.prepared, self.world = composed.value, prepared, world
        self.run = prepared.run
        world.on_main(lambda: check_run(self.run, composed))
        read = world.gather(prepared.lineage)
        world.on_main(lambda: self._require_the_same(read))
        upload = self.config.checkpoint.upload
        self.remote = RemoteCheckpoints(upload, self.run.name) if upload else None
        self.found = self._find_checkpoint()
        world.on_main(lambda: open_run(self.run, composed))
        if self.found.checkpoint is None and (remote := self.remote) is not None:
            self.found = world.on_main(lambda: self._fetch_checkpoint(remote))
        self.watchdog = Watchdog(self.run.path, world, self.config.cluster.hang_seconds)
        with self._explaining(lambda _: self.watchdog.close()):
            self._start(composed, prepared, world)

    def _start(self, composed: Composed[TrainConfig], prepared: Prepared, world: World) -> None:
        """Build everything, and bring it to where the run goes on."""
        if world.is_main and (warning := slow_format_warning(world.device, self.config.precision.kind)):
            say(warning)
        self.engine = Engine(
            prepared.model,
            self.config.seed,
            world,
            prepared.batch,
            prepared.zero,
            self.config.precision,
            self.config.optimizer,
            self.config.activation_checkpointing,
            self.config.deepspeed,
            self.config.lora,
            self.config.quantization,
            pruned=prepared.start is not None and prepared.start.pruning is not None,
            compiled=self.config.compiled if self.config.compile else None,
            ema=self.config.ema,
            recomputed=self.config.recomputed,
            parallel=self.config.parallel,
        )
        self.rollouts: Rollouts | None = None
        if self.config.objective.kind == "grpo":
            self.rollouts = build_rollouts(
                self.config.objective,
                self.config.data.sequence_length,
                self.config.seed,
                prepared.data.tokenizer,
                world,
                self.engine.whole,
            )
        self.objective = build_objective(
            self.config.objective,
            bool(prepared.model.document_mask),
            self._frozen_model(prepared.frozen),
            self.rollouts.measure if self.rollouts else None,
        )
        held_out = prepared.data.held_out
        self.validation = Validation(self.config.validation, held_out, prepared.token_bytes) if held_out else None
        seed_random_state(self.config.seed, world.rank)
        self.state = TrainerState(0, 0, 0, 0, lineage=prepared.lineage)
        if self.found.checkpoint is not None:
            self.state = load_checkpoint(self.engine, self.found.checkpoint)
            if prepared.frozen is not None:
                prepared.frozen.require_same(self.state.lineage)
        elif prepared.start is not None:
            load_weights(self.engine, prepared.start.checkpoint)
        saving = self.config.checkpoint
        self.saved_step = self.first_step = self.compared_step = self.state.step
        self.save_began = 0.0
        self.uploader = None
        if self.remote is not None and world.is_main:
            self.uploader = Uploader(self.remote, self.run.checkpoints, saving.retention)
        self.writer = CheckpointWriter(
            self.engine,
            self._context(),
            saving.retention,
            background=saving.asynchronous and 0 < saving.every < self.config.steps,
            in_use=lambda: self.uploader.sending if self.uploader else (),
        )
        # A policy's loss is near 0 however well it does; its gradient is as large as chance lets rewards differ.
        guard = replace(self.config.guard, loss_spike=0.0, gradient_spike=0.0) if self.rollouts else self.config.guard
        self.guard = Guard(guard, self.state.guard)
        self.stragglers = Stragglers(self.config.cluster.straggler_ratio)
        self.waited = 0.0
        self.time_limit = TimeLimit(self.config.time_limit, prepared.state_bytes / world.size)
        share = self.engine.place.share(prepared.batch.micro)
        self.stream = prepared.data.stream(share, bool(prepared.model.document_mask), world, self.state.lost)
        self.flops_per_token = prepared.model.flops_per_token(self.config.data.sequence_length)
        peaks = world.gather(peak_flops(world.device, self.config.precision.kind))
        self.peak_flops = None if None in peaks else sum(peaks)
        self.record = RunRecord(composed, prepared, world, self.state.step)

    def train(self) -> int:
        """Run to the last step, or to where somebody asks for an end; return the exit code."""
        config, record = self.config, self.record
        with StopRequests() as requests, record:
            record.begin(self.found)
            try:
                with self._explaining(self._break_off):
                    while self.state.step < config.steps:
                        self.step()
                        self._go_on_saving()
                        reason = self._reason_to_stop(requests)
                        if reason and self.state.step < config.steps:
                            return self._end("stopped", EXIT_STOPPED_EARLY, reason=reason)
                        if self._due(config.checkpoint.every) and self.state.step < config.steps:
                            self.save(background=config.checkpoint.asynchronous)
                    return self._end("finished", 0)
            finally:
                self.close()

    def close(self) -> None:
        """End what goes on beside the steps."""
        self.watchdog.close()
        self.stream.close()
        self.engine.close()

    def step(self) -> None:
        """Learn from the next batch, measure what is due and write it down."""
        config, started = self.config, time.perf_counter()
        step = self.state.step + 1
        is_first = self.state.step == self.first_step
        self.watchdog.at(step, "reading", is_first)
        mine, left_out = self.stream.next(self.state.step)
        waited = time.perf_counter() - started
        for shard in left_out:
            self.record.left_out(step, shard)
        rate = config.optimizer.learning_rate * rate_factor(config.schedule, step, config.steps)
        numbers = self.prepared.data.steps.numbers(step - 1)
        self.guard.enter(self.prepared.data.steps.segment(step - 1).stage)
        mine = [self.engine.place.part(batch) for batch in mine]
        result, figures = self._learn(step, mine, rate, is_first)
        if is_first and config.compile:
            self.record.compiled(step, compile_seconds())
        self.waited = waited
        seconds = time.perf_counter() - started
        tokens = result.tokens
        self.state = TrainerState(
            step=step,
            sequences=numbers.stop,
            tokens=self.state.tokens + tokens,
            optimizer_steps=self.state.optimizer_steps,
            lineage=self.prepared.lineage,
            lost=self.stream.lost,
        )
        for slow in self.stragglers.step(result.busy_seconds):
            self.record.straggler(step, slow)
        self._remember(step, result, numbers)
        if self._due(config.guard.replica_check_every):
            self._compare_replicas()
        row: dict[str, Any] = {
            "step": step,
            "tokens": self.state.tokens,
            "loss": result.loss,
            "learning_rate": rate,
            "grad_norm": result.gradient_norm,
            "tokens_per_second": tokens / seconds,
            "mfu": self.flops_per_token * tokens / seconds / self.peak_flops if self.peak_flops else None,
            "data_wait_seconds": waited,
            "step_seconds": seconds,
            "memory_bytes": peak_memory(self.world.device),
            **result.figures,
            **figures,
        }
        if self.validation and (self._due(config.validation.every) or step == config.steps):
            self.watchdog.at(step, "validating", is_slow=True)
            row |= self.validation.measure(self.engine, self.objective)
            self.state = replace(self.state, validation_loss=row["validation_loss"])
        if self._due(config.samples.every) or step == config.steps:
            self._write_samples(step)
        if self._due(config.log_every) or "validation_loss" in row or step == config.steps:
            self.record.row(row)

    def _learn(self, step: int, mine: list[Batch], rate: float, is_first: bool) -> tuple[StepResult, dict[str, float]]:
        """Learn from a step's batches, or from answers to the problems in them; return what those came to."""
        if self.rollouts is None:
            self.watchdog.at(step, "learning", is_first)
            return self.engine.train_step(mine, self.objective, rate, self.guard.judge, self.waited), {}
        assert isinstance(self.objective, GroupRelativePolicy) and self.config.objective.updates is not None
        self.watchdog.at(step, "writing answers", is_slow=True)
        answers = self.rollouts.draw(mine)
        self.watchdog.at(step, "learning", is_first)
        if self.config.objective.updates > 1:
            with self.engine.evaluating() as model:
                answers = [self.objective.remembering(model, batch) for batch in answers]
        for _ in range(self.config.objective.updates):
            result = self.engine.train_step(answers, self.objective, rate, self.guard.judge, self.waited)
            if result.refused:
                break
        figures = self.rollouts.figures(self.objective.take_told())
        if warning := self.rollouts.warning():
            self.record.nothing_learnt(step, warning)
        return result, figures

    def save(self, background: bool) -> None:
        """Write a checkpoint of this step, or begin to, unless it is written already. An earlier one comes first."""
        with self._standing_still():
            self._published(self.writer.wait())
            if self.saved_step == self.state.step:
                return
            self.watchdog.at(self.state.step, "saving", is_slow=True)
            if self.config.guard.replica_check_every:
                self._compare_replicas()
            self.save_began = time.perf_counter()
            state = replace(
                self.state,
                optimizer_steps=optimizer_steps(self.engine),
                loss_scaler=loss_scaler_of(self.engine),
                guard=self.guard.state(),
            )
            self._published(self.writer.save(state, background))

    def _go_on_saving(self) -> None:
        """Publish the checkpoint that is being written if it is whole, and hear of those that are sent elsewhere."""
        with self._standing_still():
            self._published(self.writer.poll())
        for sent in self.uploader.news() if self.uploader else ():
            self.record.uploaded(sent)

    def _published(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            return
        seconds = time.perf_counter() - self.save_began
        self.saved_step = step_of(checkpoint)
        self.record.saved(self.saved_step, checkpoint, seconds)
        self.time_limit.saved(seconds)
        if self.uploader:
            self.uploader.published(checkpoint)

    @contextmanager
    def _standing_still(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.record.stalled(time.perf_counter() - started)

    def _end(self, status: str, exit_code: int, **details: Any) -> int:
        """End with a checkpoint of this step, here and wherever else it is to be."""
        self.save(background=False)
        self.watchdog.at(self.state.step, "ending", is_slow=True)
        if self.uploader:
            self.uploader.finish()
        self._go_on_saving()
        self.record.end(status, self.state.step, exit_code, **details)
        return exit_code

    @contextmanager
    def _explaining(self, last_act: Callable[[BaseException], None]) -> Iterator[None]:
        """Raise, instead of an error, what it comes from, after a last act."""
        try:
            yield
        except BaseException as error:
            explained = self.watchdog.explain(error)
            last_act(explained)
            if explained is error:
                raise
            raise explained from error

    def _break_off(self, error: BaseException) -> None:
        """Publish what is being saved, if it is whole on every rank, and record why the run ends."""
        self._published(self.writer.abandon(LOST_PATIENCE if isinstance(error, RankLost) else PATIENCE))
        self.record.failed(self.state.step, error)

    def _compare_replicas(self) -> None:
        if self.compared_step != self.state.step:
            check_replicas(self.engine)
            self.compared_step = self.state.step

    def _find_checkpoint(self) -> Found:
        """Find where to go on from.

        Raises:
            Failure: there are checkpoints and none is whole; starting from zero would throw them away.
        """
        found = find_newest_whole(self.run.checkpoints, self.world)
        if found.checkpoint is None and found.rejected and self.config.checkpoint.upload is None:
            raise _none_is_whole(str(self.run.checkpoints), found)
        return found

    def _fetch_checkpoint(self, remote: RemoteCheckpoints) -> Found:
        """Fetch what to go on from, where none of the run's own is whole.

        Raises:
            Failure, UserError: there are checkpoints and none is whole, or the place can't be asked.
        """
        fetched = remote.fetch_newest(self.run.checkpoints, self.run.fingerprint)
        found = Found(fetched.checkpoint, [*self.found.rejected, *fetched.rejected], remote.name)
        if found.checkpoint is None and found.rejected:
            raise _none_is_whole(f"{self.run.checkpoints} or {remote.name}", found)
        return found

    def _reason_to_stop(self, requests: StopRequests) -> str | None:
        """Return why to end after this step, the same on every rank."""
        if self.config.stop_after is not None and self.state.step >= self.config.stop_after:
            return f"stop_after={self.config.stop_after}"
        reason = requests.reason or self.time_limit.reason()
        if self.world.any(reason is not None):
            return reason or "another rank was asked to stop"
        return None

    def _remember(self, step: int, result: StepResult, numbers: range) -> None:
        """Take note of a step, good or bad, and roll back if it is time to."""
        if result.refused is None and not result.overflowed:
            self.guard.learnt(result.loss, result.gradient_norm)
            return
        reason = result.refused or "fp16 overflowed, and its loss scale was lowered"
        self.record.skipped(step, reason, result.loss, result.gradient_norm, numbers)
        if result.refused and self.guard.skipped(step):
            self._roll_back(step, reason)

    def _roll_back(self, step: int, reason: str) -> None:
        """Bring back the weights and moments from before the bad steps, and go on with the next step.

        Only checkpoints of regular steps count: which others there are depends on when the run was stopped, and what
        it learns must not.

        Raises:
            Failure: there is none, or the run has rolled back often enough.
        """
        self.guard.require_rollback(step, reason)
        every = self.config.checkpoint.every
        self._published(self.writer.wait())  # which may be the one
        found = find_newest_whole(
            self.run.checkpoints,
            self.world,
            lambda number: every > 0 and number % every == 0 and self.guard.may_return_to(number),
        )
        self.record.rejected(step, found)
        if found.checkpoint is None:
            raise given_up(step, reason, "there is no good checkpoint from before them")
        self.watchdog.at(step, "rolling back", is_slow=True)
        before = load_checkpoint(self.engine, found.checkpoint)
        times = self.guard.rolled_back(before.step)
        first = self.prepared.data.steps.numbers(before.step).start
        self.record.rolled_back(step, reason, found.checkpoint, range(first, self.state.sequences), times)

    def _write_samples(self, step: int) -> None:
        self.watchdog.at(step, "writing samples", is_slow=True)
        written = write_samples(self.engine, self.config.samples, self.prepared.data.tokenizer, self.config.seed)
        for prompt, text in written:
            self.record.sample(step, prompt, text)

    def _due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _frozen_model(self, frozen: Frozen | None) -> Transformer | None:
        """Load the model that an objective holds the run's to, whole and in the run's number format."""
        if frozen is None:
            return None
        model = load_transformer(frozen.checkpoint, self.world.device, DTYPES[self.config.precision.kind])
        model.share_sequences(self.engine.place.shared)
        return model.requires_grad_(False)

    def _require_the_same(self, read: list[dict[str, Any]]) -> None:
        """Refuse that ranks read other data, or begin with other weights."""
        for key in sorted(read[0]):
            if any(each.get(key) != read[0][key] for each in read):
                what = self.prepared.data.name if key == "dataset" else f"what the run reads as its {key}"
                raise Failure(f"{what} was replaced while the run was started: start it again")

    def _context(self) -> CheckpointContext:
        return CheckpointContext(
            folder=self.run.checkpoints,
            tokenizer=self.prepared.data.tokenizer,
            model={
                "model": vars(self.prepared.model),
                "sequence_length": self.config.data.sequence_length,
                **({"lora": vars(self.config.lora)} if self.config.lora.rank else {}),
                **({"quantization_aware": vars(self.config.quantization)} if self.config.quantization.bits else {}),
                **({"pruning": start.pruning} if (start := self.prepared.start) and start.pruning else {}),
            },
            dataset_fingerprint=self.run.dataset_fingerprint,
            configuration_fingerprint=self.run.fingerprint,
        )


def _none_is_whole(where: str, found: Found) -> Failure:
    problems = "; ".join(problem for _, each in found.rejected for problem in each)
    return Failure(
        f"no checkpoint in {where} is whole ({problems}). "
        "To start from the beginning, move that folder away or choose another run.name"
    )
