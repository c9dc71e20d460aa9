"""The `python_docs` corpus: the documentation that the running Python carries, several megabytes of English.

The language reference's topics (what `help("assignment")` shows) and the docstrings of the standard library and a few
large packages, found by parsing their source. Nothing is imported, so nothing of theirs is run.
"""

from __future__ import annotations

import ast
import gc
import importlib.machinery
import os
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document, Piece, Unit, Unreadable

SKIPPED_FOLDERS = {"test", "tests", "testing", "idle_test", "site-packages", "dist-packages", "_vendor", "__pycache__"}
TOPICS = "pydoc_data.topics"


@dataclass
class PythonDocsConfig:
    """Settings of the `python_docs` corpus.

    Args:
        packages: installed packages whose docstrings follow those of the standard library, each a source of its own.
        maximum_bytes: where to stop within a source, in UTF-8 bytes of text.
    """

    packages: list[str] = field(default_factory=list)
    maximum_bytes: int = 6_000_000


class PythonDocs:
    """One document per topic and per module, in a fixed order; a docstring is not repeated within its source."""

    def __init__(self, config: PythonDocsConfig):
        self._config = config

    def units(self) -> list[Unit]:
        """Return one unit per source.

        Raises:
            UserError: a package isn't installed, or this Python has no source at all.
        """
        found = [_unit(source) for source in ("python", *self._config.packages)]
        if not found[0].pieces:
            raise UserError(f"this Python has no source under {_folder('python')}: take another corpus: corpus=files")
        return found

    def read(self, unit: Unit) -> Iterator[Document | Unreadable]:
        known: set[str] = set()
        size = 0
        for path in (Path(piece.location) for piece in unit.pieces):
            name = _module_name(path, unit.source)
            for text in _texts(name, _read_module(name, path), known):
                size += len(text.encode())
                if size > self._config.maximum_bytes:
                    return
                yield Document(text, unit.source, name)

    def weights(self) -> dict[str, float]:
        """Return nothing: none can be given."""
        return {}


def _unit(source: str) -> Unit:
    folder = _folder(source)
    paths = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        paths += [Path(parent, file) for file in files if file.endswith(".py")]
    # The language reference comes first, so that a small maximum_bytes still has prose.
    names = {path: _module_name(path, source) for path in paths}
    paths.sort(key=lambda path: (names[path] != TOPICS, names[path], path))
    return Unit(source, tuple(Piece(str(path)) for path in paths), sum(path.stat().st_size for path in paths))


def _folder(source: str) -> Path:
    if source == "python":
        return Path(sysconfig.get_paths()["stdlib"])
    # Asks the finder on sys.path and never imports: a dotted name would import its parents.
    spec = importlib.machinery.PathFinder.find_spec(source) if source.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"corpus.packages: there is no installed package `{source}`")
    return Path(next(iter(spec.submodule_search_locations)))


def _module_name(path: Path, source: str) -> str:
    parts = path.relative_to(_folder(source)).with_suffix("").parts
    return ".".join(parts if source == "python" else (source, *parts)).removesuffix(".__init__")


# A heading, such as `class Fraction(numbers.Rational)`, and the docstring under it.
Section = tuple[str, str]


def _texts(module: str, sections: list[Section], known: set[str]) -> Iterator[str]:
    """Yield the module's documents: its sections behind one another, or each on its own for the topics."""
    fresh = []
    for heading, text in sections:
        if text not in known:
            known.add(text)
            fresh.append(f"{heading}\n\n{text}\n")
    if module == TOPICS:
        yield from fresh
    elif fresh:
        yield "\n\n".join(fresh)


def _read_module(name: str, path: Path) -> list[Section]:
    """Return the docstrings of a module's source, in the order in which they stand there."""
    try:
        tree = _parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        # Templates and files for other versions of Python lie among the sources; they are no documentation.
        return []
    if name == TOPICS:
        return _topics(tree)
    sections = _sections(tree, f"module {name}", "")
    return [(heading, text) for heading, text in sections if _is_text(text)]


def _parse(source: bytes) -> ast.Module:
    # A syntax tree is a million small objects without cycles: looking for some takes a third of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    finally:
        if collecting:
            gc.enable()


def _sections(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, heading: str, prefix: str
) -> Iterator[Section]:
    docstring = ast.get_docstring(node)
    if docstring:
        yield heading, docstring.strip()
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    for child in node.body:
        match child:
            case ast.ClassDef():
                bases = ", ".join(ast.unparse(base) for base in child.bases)
                heading = f"class {prefix}{child.name}" + (f"({bases})" if bases else "")
                yield from _sections(child, heading, f"{prefix}{child.name}.")
            case ast.FunctionDef() | ast.AsyncFunctionDef() if ast.get_docstring(child, clean=False):
                yield from _sections(child, f"def {prefix}{child.name}({ast.unparse(child.args)})", prefix)


def _topics(tree: ast.Module) -> list[Section]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            return [(f"help: {name}", str(text).strip()) for name, text in sorted(topics.items())]
    return []


def _is_text(docstring: str) -> bool:
    try:
        return bool(docstring.encode())
    except UnicodeEncodeError:
        return False
