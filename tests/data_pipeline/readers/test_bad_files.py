"""Whatever is in a file, it gives documents or one message that names it: no crash, no hang, no endless memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_files import BadFile, all_bad_files

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.readers import open_corpus
from data_pipeline.readers.document import Document, Unreadable
from data_pipeline.readers.files import FilesConfig
from data_pipeline.readers.input import HARMLESS

MORE_MEMORY = 512 << 20
BAD_FILES = all_bad_files()
pytestmark = pytest.mark.timeout(10)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let the process take no more than half a gigabyte beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def read(path: Path, **settings) -> list[Document | Unreadable]:
    corpus = open_corpus(FilesConfig([str(path)], **settings))
    return [item for unit in corpus.units() for item in corpus.read(unit)]


def is_mistake(item: Document | Unreadable) -> bool:
    return isinstance(item, Unreadable) and item.reason not in HARMLESS


def test_there_are_many():
    assert len(BAD_FILES) > 800


@pytest.mark.parametrize("bad", BAD_FILES, ids=lambda bad: f"{bad.name}: {bad.about}")
def test_a_bad_file_gives_documents_or_one_message_that_names_it(tmp_path, little_memory, bad: BadFile):
    path = tmp_path / bad.name
    path.write_bytes(bad.make())
    left = read(path, skip_invalid=True, **bad.settings)
    for item in left:
        assert item.key.startswith(str(path))
        if isinstance(item, Document):
            assert item.text.strip() and item.text.encode()
        else:
            assert item.message and "\n" not in item.message and len(item.message) < 2000
    texts = [item.text for item in left if isinstance(item, Document)]
    if bad.keeps is not None:
        assert [text for text in texts if text in bad.keeps] == bad.keeps
    mistakes = [item for item in left if is_mistake(item)]
    if mistakes:
        with pytest.raises((UserError, Failure)) as caught:
            read(path, **bad.settings)
        message = str(caught.value)
        assert message.startswith(f"{mistakes[0].key}: {mistakes[0].message}")
        assert "corpus.skip_invalid=true" in message and "\n" not in message
    else:
        assert read(path, **bad.settings) == left
