import sysconfig

import pytest

from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.python_docs import PythonDocs, PythonDocsConfig


def documents(**settings):
    corpus = PythonDocs(PythonDocsConfig(**settings))
    return [document for unit in corpus.units() for document in corpus.read(unit)]


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library and a package of our own."""
    (tmp_path / "lib" / "test").mkdir(parents=True)
    (tmp_path / "lib" / "pydoc_data").mkdir()
    (tmp_path / "lib" / "pydoc_data" / "topics.py").write_text("topics = {'b': 'About b.', 'a': 'About a.'}\n")
    (tmp_path / "lib" / "broken.py").write_text("def (:\n")
    (tmp_path / "lib" / "bare.py").write_text("x = 1\n")
    (tmp_path / "lib" / "test" / "test_it.py").write_text('"""Never read."""\n')
    (tmp_path / "lib" / "mill.py").write_text(
        '"""Grinds."""\nraise SystemExit("imported")\n'
        'class Wheel(object):\n    """Turns."""\n    def turn(self, times: int = 1):\n        """Turn it."""\n'
        'def again():\n    """Turns."""\n'
    )
    (tmp_path / "site" / "weir").mkdir(parents=True)
    (tmp_path / "site" / "weir" / "__init__.py").write_text('"""Holds water."""\nraise SystemExit("imported")\n')
    paths = sysconfig.get_paths()
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {**paths, "stdlib": str(tmp_path / "lib")})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path


def test_topics_and_docstrings_are_read_and_nothing_is_imported(library):
    found = documents(packages=["weir"])
    assert [(document.source, document.text) for document in found] == [
        ("python", "help: a\n\nAbout a.\n"),
        ("python", "help: b\n\nAbout b.\n"),
        (
            "python",
            "module mill\n\nGrinds.\n\n\nclass Wheel(object)\n\nTurns.\n\n\n"
            "def Wheel.turn(self, times: int=1)\n\nTurn it.\n",
        ),
        ("weir", "module weir\n\nHolds water.\n"),
    ]


def test_a_docstring_that_came_before_is_not_repeated(library):
    assert sum(document.text.count("Turns.") for document in documents()) == 1


def test_it_stops_at_the_maximum(library):
    assert [document.key for document in documents(maximum_bytes=45)] == ["pydoc_data.topics"] * 2


def test_a_package_that_is_not_installed_is_named(library):
    with pytest.raises(UserError, match="no installed package `wier`"):
        documents(packages=["wier"])
    with pytest.raises(UserError, match=r"no installed package `weir\.sub`"):
        documents(packages=["weir.sub"])


def test_a_python_without_source_is_a_clear_mistake(library, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(library / "python311.zip")})
    with pytest.raises(UserError, match="no source"):
        documents()


def test_the_running_python_has_megabytes_of_documentation():
    found = documents(maximum_bytes=1_000_000)
    assert sum(len(document.text.encode()) for document in found) > 900_000
    assert len({document.text for document in found}) == len(found)
