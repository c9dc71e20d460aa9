"""Attempts to run code, or to get out of the folder, by what others may have written: none succeeds, each is named."""

from __future__ import annotations

import ast
import io
import itertools
import json
import pickle
import struct
import tarfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import REPOSITORY
from kills import said
from small_runs import SETTINGS, the_line
from soak import note

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import file_hash, json_hash, write_json
from data_pipeline.preparation.slurm.settings import SlurmConfig
from data_pipeline.readers.document import Document
from data_pipeline.readers.files import Files, FilesConfig
from data_pipeline.shards import rebuild_index
from data_pipeline.tokenization.tokenizer import load_tokenizer
from train.checkpoint.folder import load_checkpoint_manifest, verify_checkpoint
from train.checkpoint.load import StateReader, read_model_description, read_trainer_state
from train.checkpoint.state_file import PieceRange, StateFile, write_state_file

CANARY = "c4n4ry-0f-4-s3cr3t-k3y"
OURS = "Hydra's own settings are ours to set"
OUTSIDE = "would bring in what lies outside of the configuration"
SCHEME = "is not read; files may lie at a path or under"
CHAINED = "chained URLs (`::`) are not read"
NO_URL = "a path on this machine is needed, not a URL"
NAME = "can't be a folder's name"
ADDED = "nothing can be added to a configuration"

RAW = ("data.path=null", "data.raw.tokenizer=TOKENIZER")

TYPED = {
    # What is typed after `train`, and what the one line says. PWNED stands for a file that no attempt may make.
    "_target_ in a group": (["model._target_=os.system"], "unknown key `model._target_`"),
    "_target_ as a mapping": (["model={_target_: os.system}"], "unknown key `model._target_`"),
    "_partial_": (["optimizer._partial_=true"], "unknown key `optimizer._partial_`"),
    "_args_ at the top": (["_args_=[touch PWNED]"], "unknown key `_args_`"),
    "_target_ in what passes through": (["deepspeed.compile={_target_: os.system}"], "can't name code to run"),
    "_target_ in a list in what passes through": (["deepspeed.compile=[{_target_: os.system}]"], "can't name code"),
    "a callback of Hydra's": (["hydra.callbacks.x._target_=os.system"], OURS),
    "a launcher of Hydra's": (["hydra/launcher=basic"], OURS),
    "a search path of Hydra's": (["+hydra.searchpath=[pkg://os]"], OURS),
    "a group put elsewhere": (["+model@hydra.callbacks.x=nano"], ADDED),
    "a key of the environment": (["run.name=${oc.env:CANARY}"], OUTSIDE),
    "a key of the environment within a text": (["tracker.tags=['a ${oc.env:CANARY}']"], OUTSIDE),
    "a resolver within a reference": (["run.name='${model.${oc.env:CANARY}}'"], OUTSIDE),
    "oc.decode": (["run.name='${oc.decode:x}'"], OUTSIDE),
    "oc.create": (["run.name='${oc.create:{a: 1}}'"], OUTSIDE),
    "a resolver of one's own": (["run.name='${shell:touch PWNED}'"], OUTSIDE),
    "a file that DeepSpeed writes": (["deepspeed.flops_profiler.output_file=PWNED"], "may write no files of its own"),
    "a monitor that DeepSpeed writes": (["deepspeed.tensorboard.output_path=PWNED"], "may write no files of its own"),
    "an option out of its folder": (["model=../train"], "`model` has no option `../train`"),
    "an absolute option": (["model='/etc/hosts'"], "has no option"),
    "data.path=pipe:": (["data.path='pipe:touch PWNED'"], SCHEME),
    "data.path of a chain": (["data.path='simplecache::https://127.0.0.1:9/d'"], CHAINED),
    "data.path on another host": (["data.path='file://elsewhere/d'"], "a file of another host can't be read"),
    **{
        f"data.path={scheme}://": ([f"data.path='{scheme}://x/d'"], SCHEME)
        for scheme in ("local", "github", "memory", "zip", "ssh", "git", "jupyter", "hdfs", "dask", "data")
    },
    "data.raw.paths=pipe:": ([*RAW, "data.raw.paths=['pipe:touch PWNED']"], SCHEME),
    "data.raw.paths of a chain": ([*RAW, "data.raw.paths=['tar://a.txt::local://b.tar']"], CHAINED),
    "data.raw.tokenizer at a URL": (
        ["data.path=null", "data.raw.paths=[x.jsonl]", "data.raw.tokenizer='https://127.0.0.1:9/t.json'"], NO_URL,
    ),
    "data.cache.folder at a URL": (["data.cache.folder='s3://bucket/cache'"], NO_URL),
    "data.cache.folder=pipe:": (["data.cache.folder='pipe:touch PWNED'"], SCHEME),
    "run.root at a URL": (["run.root='s3://bucket/runs'"], NO_URL),
    "run.root=pipe:": (["run.root='pipe:touch PWNED'"], SCHEME),
    "run.name out of the folder": (["run.name=../PWNED"], NAME),
    "run.name absolute": (["run.name=/PWNED"], NAME),
    "run.name with a command": (["run.name='$(touch PWNED)'"], NAME),
    "run.name with a line break": (['run.name="a\nb"'], NAME),
    "run.name with backticks": (["run.name='`touch PWNED`'"], NAME),
}  # fmt: skip

TYPED_FOR_PREPARE = {
    "corpus.paths=pipe:": (["corpus=files", "corpus.paths=['pipe:touch PWNED']", "output=d"], SCHEME),
    "corpus.paths of a chain": (["corpus=files", "corpus.paths=['filecache::s3://b/x.txt']", "output=d"], CHAINED),
    "corpus.paths=github://": (["corpus=files", "corpus.paths=['github://o:r@main/x.txt']", "output=d"], SCHEME),
    "a source's paths=local://": (
        ["corpus=sources", "corpus.sources.web.paths=['local:///etc/hosts']", "output=d"], SCHEME,
    ),
    "output at a URL": (["output='s3://bucket/d'"], NO_URL),
    "output=pipe:": (["output='pipe:touch PWNED'"], SCHEME),
    "tokenizer.path at a URL": (["tokenizer=file", "tokenizer.path='https://127.0.0.1:9/t.json'", "output=d"], NO_URL),
    "a SLURM option with code": (
        ["engine=slurm", "engine.sbatch=['--wrap=touch PWNED']", "output=d"], "is ours to set",
    ),
}  # fmt: skip

OWN_OPTIONS = {
    # A file in a folder that `--config-dir` names, and what the one line says.
    "an option with _target_": ("model/mine.yaml", "_target_: os.system\ncommand: touch PWNED\n", "_target_"),
    "an option that sets a callback": (
        "model/mine.yaml",
        "# @package _global_\nhydra: {callbacks: {x: {_target_: os.system, command: touch PWNED}}}\n",
        OURS,
    ),
    "an option that is packaged as a callback": (
        "model/mine.yaml", "# @package hydra.callbacks.x\n_target_: os.system\n", OURS,
    ),
    "an option that chooses a launcher": ("model/mine.yaml", "defaults: [{override /hydra/launcher: basic}]\n", OURS),
    "an option in Hydra's own group": ("hydra/launcher/mine.yaml", "_target_: os.system\n", OURS),
    "an option with an object of Python's": (
        "model/mine.yaml", "name: !!python/object/apply:os.system ['touch PWNED']\n", "not determine a constructor",
    ),
    "an option that reads the environment": ("model/mine.yaml", "name: ${oc.env:CANARY}\n", OUTSIDE),
    "an option that reads it in disguise": ("model/mine.yaml", 'name: "\\x24{oc.env:CANARY}"\n', OUTSIDE),
    "an option that is chosen by it": ("model/mine.yaml", "defaults: ['${oc.env:CANARY}']\n", OUTSIDE),
    "an option that leads out of the folder": ("model/mine.yaml", "defaults: [../../secret]\n", "leads out of"),
}  # fmt: skip


@pytest.fixture
def untouched(tmp_path, monkeypatch):
    """A folder to be in, and a secret in the environment; afterwards nothing has been made there."""
    monkeypatch.setenv("CANARY", CANARY)
    before = sorted(tmp_path.rglob("*"))

    def require(*, but: tuple[Path, ...] = ()) -> None:
        assert [path for path in sorted(tmp_path.rglob("*")) if path not in (*before, *but)] == []

    return require


@pytest.mark.parametrize("attempt", TYPED)
def test_what_is_typed_runs_nothing_and_stays_in_its_folder(headrace, small_dataset, untouched, attempt):
    typed, expected = TYPED[attempt]
    typed = [text.replace("TOKENIZER", f"{small_dataset}/tokenizer") for text in typed]
    code, error = headrace("train", f"data.path={small_dataset}", *SETTINGS, *typed, "--dry-run")
    assert code == 2, error
    assert expected in the_line(error) and CANARY not in error
    untouched()
    note("Attempts", attempt=attempt, by="train", refused_with=str(expected))


@pytest.mark.parametrize("attempt", TYPED_FOR_PREPARE)
def test_what_is_typed_for_prepare_runs_nothing_either(headrace, untouched, attempt):
    typed, expected = TYPED_FOR_PREPARE[attempt]
    code, error = headrace("prepare", *typed)
    assert code == 2, error
    assert expected in the_line(error) and CANARY not in error
    untouched()
    note("Attempts", attempt=attempt, by="prepare", refused_with=str(expected))


@pytest.mark.parametrize("attempt", OWN_OPTIONS)
def test_options_that_others_have_written_are_settings_and_nothing_else(
    headrace, small_dataset, tmp_path_factory, untouched, attempt
):
    name, content, expected = OWN_OPTIONS[attempt]
    own = tmp_path_factory.mktemp("own")
    (own / name).parent.mkdir(parents=True)
    (own / name).write_text(content)
    (own.parent / "secret.yaml").write_text("name: secret\n")
    code, error = headrace(
        "train", f"data.path={small_dataset}", *SETTINGS, "model=mine", "--config-dir", str(own), "--dry-run"
    )
    assert code == 2, error
    assert expected in the_line(error) and CANARY not in error
    untouched()
    note("Attempts", attempt=attempt, by="--config-dir", refused_with=str(expected))


@pytest.mark.parametrize(
    "settings",
    [
        {"partition": "a\n#SBATCH --wrap=touch"},
        {"account": ""},
        {"time": "1\x00"},
        {"modules": ["gcc; touch PWNED"]},
        {"modules": ["$(touch PWNED)"]},
        {"modules": ["../../evil"]},
        {"sbatch": ["--constraint=a\ntouch PWNED"]},
        {"sbatch": ["touch PWNED"]},
        {"sbatch": ["--exp=ALL,LD_PRELOAD=evil.so"]},
        {"sbatch": ["--chdir=/elsewhere"]},
        {"sbatch": ["--output=/elsewhere"]},
        {"sbatch": ["--container=evil"]},
    ],
    ids=str,
)
def test_no_value_for_slurm_becomes_code(settings):
    with pytest.raises(UserError, match=r"engine\.") as refused:
        SlurmConfig(**settings).check()
    note("Attempts", attempt=f"engine: {settings}", by="prepare on SLURM", refused_with=str(str(refused.value)))


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def write_tar(
    path: Path, members: list[tuple[str, bytes]], more: Callable[[tarfile.TarFile], None] | None = None
) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
        if more:
            more(tar)


def npy(header: str, content: bytes) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


@pytest.mark.parametrize(
    ("name", "object_array"),
    [("00000000.tokens.pyd", False), ("00000000.tokens.pth", False), ("00000000.tokens.npy", True)],
)
def test_pickles_in_a_shard_are_refused(tmp_path, name, object_array):
    payload = pickle.dumps(Touch(tmp_path / "PWNED"))
    if object_array:
        payload = npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", payload)
    ends = npy("{'descr': '<u4', 'fortran_order': False, 'shape': (1,), }", struct.pack("<I", 1))
    write_tar(tmp_path / "train-000000.tar", [("00000000.ends.npy", ends), (name, payload)])
    with pytest.raises(
        Failure, match=r"the shard is damaged: (unexpected member|.*doesn't start as a 1-D array)"
    ) as error:
        rebuild_index(tmp_path / "train-000000.tar")
    assert not (tmp_path / "PWNED").exists()
    note(
        "Attempts",
        attempt=f"{name} with a pickle",
        by="a shard",
        refused_with=str(str(error.value).split(": ", 1)[1]),
    )


@pytest.mark.parametrize("name", ["../escape.tokens.npy", "/escape.tokens.npy"])
def test_a_member_that_leads_out_of_a_shard_is_refused(tmp_path, name):
    write_tar(tmp_path / "train-000000.tar", [(name, b"x")])
    with pytest.raises(Failure, match="unexpected member") as error:
        rebuild_index(tmp_path / "train-000000.tar")
    note("Attempts", attempt=f"member {name}", by="a shard", refused_with=str(str(error.value).split(": ", 1)[1]))


def special_members(tar: tarfile.TarFile) -> None:
    """Add links and a device, which a reader that unpacks would follow or make."""
    for name, kind in (("link.txt", tarfile.SYMTYPE), ("hard.txt", tarfile.LNKTYPE), ("null.txt", tarfile.CHRTYPE)):
        header = tarfile.TarInfo(name)
        header.type, header.linkname = kind, "/etc/hosts"
        tar.addfile(header)


def test_of_an_archive_of_others_nothing_is_unpickled_unpacked_or_followed(tmp_path):
    payload = pickle.dumps(Touch(tmp_path / "PWNED"))
    pickles = [f"a.{kind}" for kind in ("pkl", "pickle", "pyd", "pth", "pt", "npy", "npz", "cbor", "ten")]
    outside = ["../escape.txt", f"{tmp_path}/absolute.txt"]
    members = [*((name, payload) for name in pickles), *((name, b"a text") for name in outside)]
    write_tar(tmp_path / "corpus.tar", members, special_members)
    files = Files(FilesConfig(paths=[str(tmp_path / "corpus.tar")]), "files")
    items = [item for unit in files.units() for item in files.read(unit)]
    texts = [item for item in items if isinstance(item, Document)]
    assert [item.text for item in texts] == ["a text", "a text"], "text is read, wherever its name leads"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.tar"]
    assert not (tmp_path.parent / "escape.txt").exists()
    left_out = {item.key.rpartition("member ")[2]: item.message for item in items if not isinstance(item, Document)}
    assert set(left_out) == {*pickles, "link.txt", "hard.txt", "null.txt"}
    for name, message in left_out.items():
        note("Attempts", attempt=f"member {name}", by="a tar of texts", refused_with=f"left out: {message}")
    for name in outside:
        note(
            "Attempts",
            attempt=f"member {Path(name).name} outside",
            by="a tar of texts",
            refused_with="read, not unpacked",
        )


@pytest.mark.parametrize("name", ["../../escape.tar", "/etc/train-000000.tar", "train-000000.tar/../x.tar"])
def test_a_dataset_that_names_a_shard_elsewhere_is_refused(headrace, own_dataset, name):
    manifest = json.loads((own_dataset / "manifest.json").read_text())
    manifest["shards"][0]["name"] = name
    (own_dataset / "manifest.json").write_text(json.dumps(manifest))
    code, error = headrace("train", f"data.path={own_dataset}", *SETTINGS, "--dry-run")
    assert code == 2 and "shard name" in the_line(error)
    note(
        "Attempts",
        attempt=f"shard {name}",
        by="a dataset's manifest",
        refused_with="is damaged (ValueError: shard name …)",
    )


def a_checkpoint(folder: Path, **files: Any) -> Path:
    """Write a checkpoint whose every hash is right, as somebody would who means harm."""
    folder = folder / "step-00000001"
    folder.mkdir()
    piece = PieceRange("w", "master", 0, 4, (4,))
    import torch

    write_state_file(folder / "state-00000-of-00001.safetensors", [(piece, torch.ones(4))])
    contents = {"model.json": {"model": {}, "sequence_length": 8}, "trainer.json": {"step": 1}} | files
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    write_manifest(folder, [path.name for path in folder.iterdir()])
    return folder


def write_manifest(folder: Path, names: list[str]) -> None:
    entries = {name: {"bytes": (folder / name).stat().st_size, "xxh3_128": file_hash(folder / name)} for name in names}
    content = {
        **{"format_version": 1, "step": 1, "world_size": 1, "zero_stage": 0},
        **{"dataset_fingerprint": "d", "configuration_fingerprint": "c", "files": entries},
    }
    write_json(folder / "manifest.json", {**content, "xxh3_128": json_hash(content)})


@pytest.mark.parametrize("name", ["../secret", "/etc/hosts", "tokenizer/../../secret", ".hidden", "a//b"])
def test_a_checkpoint_that_names_a_file_elsewhere_is_refused(tmp_path, name):
    folder = a_checkpoint(tmp_path)
    (tmp_path / "secret").write_text("secret")
    content = json.loads((folder / "manifest.json").read_text())
    del content["xxh3_128"]
    content["files"][name] = {"bytes": 6, "xxh3_128": file_hash(tmp_path / "secret")}
    write_json(folder / "manifest.json", {**content, "xxh3_128": json_hash(content)})
    with pytest.raises(Failure, match="which can't be a file of a checkpoint"):
        load_checkpoint_manifest(folder)
    assert len(verify_checkpoint(folder)) == 1
    note(
        "Attempts", attempt=f"file {name}", by="a checkpoint's manifest", refused_with="can't be a file of a checkpoint"
    )


def test_a_checkpoint_with_settings_of_no_model_is_refused(tmp_path):
    folder = a_checkpoint(tmp_path, **{"model.json": {"model": {"_target_": "os.system"}, "sequence_length": 8}})
    with pytest.raises(Failure, match=r"model\.json can't be used: .*_target_"):
        read_model_description(folder)
    with pytest.raises(Failure, match=r"trainer\.json can't be used"):
        read_trainer_state(folder)
    note("Attempts", attempt="unknown keys", by="model.json, trainer.json", refused_with="can't be used: unexpected …")


def test_a_state_file_that_the_manifest_does_not_name_is_not_read(tmp_path):
    import torch

    folder = a_checkpoint(tmp_path)
    write_state_file(
        folder / "state-00001-of-00001.safetensors", [(PieceRange("w", "master", 0, 4, (4,)), -torch.ones(4))]
    )
    out = torch.zeros(4)
    StateReader(folder).fill("w", "master", (4,), 0, out)
    assert out.tolist() == [1, 1, 1, 1]
    note(
        "Attempts",
        attempt="one more state file",
        by="a checkpoint's folder",
        refused_with="not the manifest's: not read",
    )


RANGES = {"ranges": json.dumps({"w/master": [0, 4, [4]]})}
HEADERS = {
    "offsets beyond the end": {"w/master": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1 << 40]}},
    "offsets that overlap": {
        "w/master": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "v": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
    },
    "negative offsets": {"w/master": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}},
    "a shape that overflows": {"w/master": {"dtype": "F32", "shape": [1 << 62, 8], "data_offsets": [0, 16]}},
    "fewer elements than its range": {"w/master": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
    "another type": {"w/master": {"dtype": "I32", "shape": [4], "data_offsets": [0, 16]}},
    "no such tensor": {"v": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
}  # fmt: skip


@pytest.mark.parametrize("attempt", [*HEADERS, "a giant header", "no ranges", "a pickle"])
def test_a_header_that_lies_is_a_failure_by_name(tmp_path, attempt):
    path = tmp_path / "state-00000-of-00001.safetensors"
    header: dict[str, Any] = {} if attempt == "no ranges" else {"__metadata__": RANGES}
    text = json.dumps({**header, **HEADERS.get(attempt, HEADERS["another type"])}).encode()
    length = 1 << 60 if attempt == "a giant header" else len(text)
    data = bytes(8 if attempt == "fewer elements than its range" else 16)
    path.write_bytes(length.to_bytes(8, "little") + text + data)
    if attempt == "a pickle":
        path.write_bytes(pickle.dumps(Touch(tmp_path / "PWNED")))
    with pytest.raises(Failure, match=r"state-00000-of-00001\.safetensors is not a state file of a checkpoint"):
        StateFile(path)
    assert not (tmp_path / "PWNED").exists()
    note("Attempts", attempt=attempt, by="a state file", refused_with="is not a state file of a checkpoint")


def test_a_tokenizer_brings_no_code_and_its_template_is_never_rendered(small_dataset, tmp_path, monkeypatch):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((small_dataset / "tokenizer" / "tokenizer.json").read_bytes())
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'PWNED')!r}).touch()\n")
    template = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch PWNED') }}"
    )
    configuration = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    configuration |= {"chat_template": template, "eos_token": "<|endoftext|>", "trust_remote_code": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    monkeypatch.chdir(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode("a river")) == "a river"
    tokenizer.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert "auto_map" not in saved and "trust_remote_code" not in saved
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not list(tmp_path.rglob("PWNED"))
    note("Attempts", attempt="auto_map and a class of one's own", by="tokenizer_config.json", refused_with="left out")
    note(
        "Attempts",
        attempt="a chat template that escapes",
        by="tokenizer_config.json",
        refused_with="never rendered by us",
    )


class Page(HTMLParser):
    """What a page would run or load: scripts, handlers, addresses."""

    def __init__(self, text: str):
        super().__init__()
        self.scripts, self.reaches, self.tags = 0, list[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.scripts += tag == "script"
        for name, value in attrs:
            if name.startswith("on") or name in ("src", "href", "srcdoc") or "javascript:" in (value or ""):
                self.reaches.append(f"{tag} {name}={value}")


NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(1)>'\"><iframe srcdoc=x>{{ 7*7 }}"


def test_a_report_shows_what_a_run_says_and_runs_none_of_it(tmp_path, monkeypatch):
    from train.telemetry.recorder import Recorder
    from train.telemetry.report import render

    pages = []
    for name, words in (("plain", "plain"), ("<img src=x onerror=alert(1)>", NASTY)):
        # Both runs take as long, or a busy machine would give one of the pages a share of time more to show.
        monkeypatch.setattr("train.telemetry.recorder.time.time", map(float, itertools.count(1000)).__next__)
        run = tmp_path / name
        run.mkdir()
        recorder = Recorder(run)
        recorder.event("started", 0, ranks=1, reason=words)
        recorder.event(words, 0)
        recorder.metrics({"step": 1, "loss": 1.0, "tokens": 5})
        recorder.sample(1, words, words)
        recorder.close()
        (run / "config.yaml").write_text(yaml.safe_dump({"run": {"name": words}, words: words}))
        (run / "evaluation.json").write_text(json.dumps({words: {words: words}}))
        (run / "environment.json").write_text(json.dumps({"processor": words}))
        pages.append(render([run]))
    plain, nasty = map(Page, pages)
    assert (nasty.scripts, nasty.tags, nasty.reaches) == (plain.scripts, plain.tags, [])
    assert "&lt;img src=x onerror" in pages[1] and "{{ 7*7 }}" in pages[1]
    note(
        "Attempts", attempt="markup in names, samples, events, settings", by="report.html", refused_with="shown as text"
    )


def test_a_datasheet_shows_documents_and_runs_none_of_them(tmp_path):
    from data_pipeline.cleaning.chain import CleaningConfig
    from data_pipeline.prepare import PrepareConfig, prepare
    from data_pipeline.tokenization.bpe import BpeConfig

    texts = [f"{NASTY} {NASTY} mail evil{number}@example.com" for number in range(3)] * 2
    texts += [f"text {number} of the river and the hill, " * 9 for number in range(200)]
    path = tmp_path / "<img src=x onerror=alert(1)>.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings: dict[str, Any] = {"workers": 1, "block_tokens": 512, "shard_tokens": 4096, "validation_fraction": 0.1}
    corpus = FilesConfig(paths=[str(path)])
    cleaning = CleaningConfig()
    prepare(
        PrepareConfig(str(tmp_path / "d"), corpus, cleaning=cleaning, tokenizer=BpeConfig(320, 1 << 20), **settings)
    )
    text = (tmp_path / "d" / "dataset.html").read_text()
    page = Page(text)
    assert (page.scripts, page.reaches) == (0, []) and not page.tags & {"img", "iframe"}
    note("Attempts", attempt="markup in documents and their names", by="dataset.html", refused_with="shown as text")


def test_no_secret_of_the_environment_reaches_a_run_folder(trainings, tmp_path):
    secrets = {name: f"{CANARY}-{number}" for number, name in enumerate(
        ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DS_API_KEY", "NCCL_AUTH_TOKEN", "MY_PASSWORD")
    )}  # fmt: skip
    secrets |= {"TORCH_MIRROR": f"https://user:{CANARY}-9@host/x?sig={CANARY}-8", "WANDB_MODE": "offline"}
    codes = trainings.train(tmp_path, "stop_after=4", "tracker=wandb", "zero=1", **secrets)
    assert codes == [75], said(tmp_path)
    run = tmp_path / "runs" / "run"
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {"config.yaml", "environment.json", "manifest.json", "report.html"} <= {path.name for path in files}
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert "TORCH_MIRROR" in (run / "environment.json").read_text()
    note(
        "Attempts",
        attempt="eight secrets in the environment",
        by="a whole run, every byte",
        refused_with="none is there",
    )


def test_no_secret_of_the_settings_is_written_down(tmp_path):
    from data_pipeline.foundation.configuration import compose_configuration
    from train.run_folder import check_run, locate_run, open_run
    from train.schemas import register_schemas
    from train.settings import TrainConfig

    register_schemas()
    typed = [f"data.raw.paths=['https://me:{CANARY}@host/a.jsonl?key={CANARY}','s3://{CANARY}@b/c']", "seed=3"]
    typed += [f"deepspeed.comms_logger.api_key={CANARY}", f"run.root={tmp_path}", "run.name=run"]
    composed = compose_configuration("train", typed, TrainConfig)
    run = locate_run(composed, "fingerprint")
    open_run(run, composed)
    assert [path for path in run.path.iterdir() if CANARY.encode() in path.read_bytes()] == []
    kept = (run.path / "config.yaml").read_text()
    assert "https://host/a.jsonl?…" in kept and "(removed)" in kept
    check_run(run, composed)
    note(
        "Attempts",
        attempt="passwords in URLs and keys in settings",
        by="config.yaml, overrides.yaml",
        refused_with="(removed)",
    )


MAY = {
    # What looks like running code, and why it may.
    "launch/command.py: importlib.import_module": "of the verbs in a table of ours",
    "data_pipeline/readers/samples.py: environment.from_string": "a chat template, in Jinja's immutable sandbox",
    "train/generation/templates.py: _environment().from_string": "a task's prompts, in the same sandbox",
}
PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
RUNS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    *("os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.load", "torch.save"),
    *("importlib.import_module", "hydra.utils.instantiate", "instantiate"),
}  # fmt: skip


def found_in(source: str) -> list[str]:
    """Return what a source does that could run what is in a file or a setting."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"import {name}" for name in names if name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in RUNS | CALLS or called.endswith((".from_string", ".apply_chat_template", ".run_line_magic")):
                found.append(called)
            for keyword in node.keywords:
                if (
                    keyword.arg in ("shell", "allow_pickle", "trust_remote_code")
                    and ast.unparse(keyword.value) != "False"
                ):
                    found.append(f"{keyword.arg}={ast.unparse(keyword.value)}")
                if keyword.arg == "weights_only" and ast.unparse(keyword.value) != "True":
                    found.append("weights_only")
    return found


def test_no_source_of_ours_unpickles_evaluates_or_calls_a_shell():
    bad = {
        f"{path.relative_to(REPOSITORY)}: {found}"
        for package in ("conf", "data_pipeline", "launch", "train")
        for path in (REPOSITORY / package).rglob("*.py")
        for found in found_in(path.read_text(encoding="utf-8"))
    }
    assert bad == set(MAY)


@pytest.mark.parametrize(
    "source", ["import pickle", "eval('1')", "torch.load(f)", "run('x', shell=True)", "np.load(f, allow_pickle=True)"]
)
def test_that_search_finds_what_it_looks_for(source):
    assert found_in(source)
