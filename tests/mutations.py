"""The guarantees, the tests that stand for each, and breaks that those tests have to catch.

A break is one change of the source as a careless hand might make it. `tests/system/test_mutations.py` makes each in a
copy of the repository and demands that its tests fail there, as they pass in a copy without it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A break.

    Args:
        guarantee: that it takes away.
        what: it does, in a few words.
        file: in the repository; `before` occurs in it once, and `after` stands there then.
        tests: that have to fail, as pytest takes them.
    """

    guarantee: str
    what: str
    file: str
    before: str
    after: str
    tests: str


KILLED_ALONE = "tests/system/test_kills.py::test_killed_inside_saves_and_out_every_loss_and_every_bit_is_the_same[1-1]"
MOVED = (
    "tests/system/test_kills.py::test_killed_and_started_at_other_world_sizes_and_stages_it_reads_the_same_sequences"
)
FOLDER = "tests/train/checkpoint/test_folder.py"
SAFE = "tests/system/test_safe.py"

MUTATIONS = [
    Mutation(
        "exact",
        "a resumed run starts with half of AdamW's moments",
        "train/checkpoint/load.py",
        "        for kind in moments_in(moments[id(piece.master)]):\n",
        "        for kind in moments_in(moments[id(piece.master)])[:1]:\n",
        KILLED_ALONE,
    ),
    Mutation(
        "exact",
        "a resumed run reads from the first step on",
        "train/stream.py",
        "stream(self._sequences, self._share, step, self._with_documents)",
        "stream(self._sequences, self._share, 0, self._with_documents)",
        KILLED_ALONE,
    ),
    Mutation(
        "elastic",
        "of a piece that begins before the wanted range, its beginning is taken",
        "train/checkpoint/load.py",
        "low, high = max(wanted.start, piece.start), min(wanted.stop, piece.stop)",
        "low, high = max(wanted.start, piece.start), piece.stop",
        f"{FOLDER}::test_ranges_are_put_together_from_all_files",
    ),
    Mutation(
        "elastic",
        "at stage 3 every rank takes the first partition for its own",
        "train/checkpoint/pieces.py",
        "start = min(engine.partition * count, parameter.ds_numel)",
        "start = min(0 * count, parameter.ds_numel)",
        MOVED,
    ),
    Mutation(
        "complete",
        "all ranks read the first rank's sequences",
        "data_pipeline/order.py",
        "return numbers[rank * share : (rank + 1) * share]",
        "return numbers[:share]",
        "tests/data_pipeline/test_order.py::test_the_ranks_together_take_exactly_the_steps_sequences",
    ),
    Mutation(
        "complete",
        "the shuffle draws with replacement",
        "data_pipeline/permutation.py",
        'np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable").astype(np.int64)',
        "(np.random.Philox(key=key).random_raw(count) % count).astype(np.int64)",
        "tests/data_pipeline/test_order.py",
    ),
    Mutation(
        "durable",
        "a damaged checkpoint is loaded",
        "train/checkpoint/load.py",
        "        if not problems:\n            return Found(checkpoint, rejected",
        "        if True:\n            return Found(checkpoint, rejected",
        f"{FOLDER}::test_any_damage_is_named_and_the_next_older_is_taken",
    ),
    Mutation(
        "durable",
        "the last but one checkpoint goes before the last is read back",
        "train/checkpoint/retention.py",
        "contents=contents[path]",
        "contents=path != written",
        "tests/train/checkpoint/test_retention.py",
    ),
    Mutation(
        "durable",
        "ranks that are started again read the addresses of dead ones",
        "train/distributed.py",
        'if store.check([f"{call}/all"]) and name in store.get(f"{call}/all").decode().split():',
        'if store.check([f"{call}/all"]):',
        "tests/train/test_distributed.py",
    ),
    Mutation(
        "durable",
        "half a save is taken for a checkpoint",
        "train/checkpoint/folder.py",
        r're.fullmatch(r"step-\d{8,}", path.name)',
        r're.match(r"step-\d{8,}", path.name)',
        f"{FOLDER}::test_debris_and_strangers_are_no_checkpoints",
    ),
    Mutation(
        "durable",
        "training data is read without looking at its hash",
        "data_pipeline/storage/dataset_files.py",
        "if file_hash(path) != file.xxh3_128:",
        "if False:",
        "tests/data_pipeline/test_store.py",
    ),
    Mutation(
        "durable",
        "a torn last line stays, and the next is written behind it",
        "train/telemetry/recorder.py",
        "self._bytes = _end_of_last_whole_line(self._file.fileno())",
        "self._bytes = os.fstat(self._file.fileno()).st_size",
        "tests/train/telemetry/test_recorder.py",
    ),
    Mutation(
        "durable",
        "two jobs share a run folder",
        "train/run_lock.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "tests/train/test_run_lock.py",
    ),
    Mutation(
        "durable",
        "a full disk under metrics.jsonl ends the run",
        "train/telemetry/recorder.py",
        "            self._write_waiting()\n        except OSError as error:\n            if len",
        "            self._write_waiting()\n        except ZeroDivisionError as error:\n            if len",
        "tests/train/telemetry/test_recorder.py",
    ),
    Mutation(
        "polite",
        "a signal is caught and forgotten",
        "train/stopping.py",
        "        self.reason = signal.Signals(number).name\n",
        "        self.reason = None\n",
        "tests/system/test_train_command.py::test_a_signal_ends_the_step_with_a_checkpoint_and_75[10]",
    ),
    Mutation(
        "equal",
        "rotary positions turn the other way",
        "train/model/attention.py",
        "angles = positions.float().unsqueeze(-1) * theta**-exponents",
        "angles = -positions.float().unsqueeze(-1) * theta**-exponents",
        "tests/train/test_transformer.py::test_logits_and_gradients_are_those_of_hugging_face",
    ),
    Mutation(
        "equal",
        "the loss learns from ignored targets",
        "train/model/cross_entropy.py",
        "            return shares.scatter_add_(1, column, -counted.unsqueeze(1))\n",
        "            return shares.scatter_add_(1, column, -torch.ones_like(counted).unsqueeze(1))\n",
        "tests/train/test_cross_entropy.py::test_ignored_targets_count_nothing_and_learn_nothing",
    ),
    Mutation(
        "safe",
        "a configuration reads the environment",
        "data_pipeline/foundation/configuration.py",
        "        if found := RESOLVER.search(text):",
        "        if found := None:",
        f"{SAFE}::test_what_is_typed_runs_nothing_and_stays_in_its_folder",
    ),
    Mutation(
        "safe",
        "an option of somebody's sets Hydra's own keys",
        "data_pipeline/foundation/configuration.py",
        'if any("hydra" in re.split(r"[^\\w]+", name) for name in reached):',
        "if False:",
        f"{SAFE}::test_options_that_others_have_written_are_settings_and_nothing_else",
    ),
    Mutation(
        "safe",
        "`pipe:` is a scheme like another",
        "data_pipeline/foundation/locations.py",
        'SCHEMES = ("file",',
        'SCHEMES = ("pipe", "file",',
        f"{SAFE}::test_what_is_typed_runs_nothing_and_stays_in_its_folder",
    ),
    Mutation(
        "safe",
        "a member of a shard may have any name",
        "data_pipeline/shards.py",
        r're.compile(r"\d{8}\.(ends\.npy|json|labels\.npy|tokens\.npy)")',
        r're.compile(r".*")',
        f"{SAFE}::test_a_member_that_leads_out_of_a_shard_is_refused {SAFE}::test_pickles_in_a_shard_are_refused",
    ),
    Mutation(
        "safe",
        "a checkpoint may name any file",
        "train/checkpoint/folder.py",
        r'if not re.fullmatch(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*", name, re.ASCII):',
        "if False:",
        f"{SAFE}::test_a_checkpoint_that_names_a_file_elsewhere_is_refused",
    ),
    Mutation(
        "safe",
        "what a run says is markup in its report",
        "data_pipeline/foundation/pages/__init__.py",
        "autoescape=True",
        "autoescape=False",
        f"{SAFE}::test_a_report_shows_what_a_run_says_and_runs_none_of_it",
    ),
    Mutation(
        "safe",
        "passwords in URLs are written down",
        "train/telemetry/withheld.py",
        'QUERY_OF_URL.sub(r"\\1?…", USER_OF_URL.sub(r"\\1", text)) if "://" in text else text',
        "text",
        f"{SAFE}::test_no_secret_of_the_settings_is_written_down",
    ),
    Mutation(
        "safe",
        "the environment is written down whole",
        "train/telemetry/environment.py",
        "if VARIABLES.fullmatch(name) and not looks_secret(name)",
        "if name",
        f"{SAFE}::test_no_secret_of_the_environment_reaches_a_run_folder",
    ),
]
