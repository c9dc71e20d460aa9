"""The `python_docs` corpus: the documentation that the running Python carries, several megabytes of English.

The language reference's topics (what `help("assignment")` shows) and the docstrings of the standard library and a few
large packages, found by parsing their source. Nothing is imported, so nothing of theirs is run.
"""

from __future__ import annotations

import ast
import functools
import gc
import importlib.machinery
import itertools
import os
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from data_pipeline.parallel import Workers
from data_pipeline.readers.document import Document, InputFile

SKIPPED_FOLDERS = {"test", "tests", "testing", "idle_test", "site-packages", "dist-packages", "_vendor", "__pycache__"}
TOPICS = "pydoc_data.topics"
MODULES_PER_TASK = 16


@dataclass
class PythonDocsConfig:
    """Settings of the `python_docs` corpus.

    Args:
        packages: installed packages whose docstrings follow those of the standard library.
        maximum_bytes: where to stop, in UTF-8 bytes of text.
    """

    packages: list[str] = field(default_factory=list)
    maximum_bytes: int = 12_000_000


@dataclass(frozen=True)
class _Module:
    name: str
    path: Path


class PythonDocs:
    """One document per topic and per module, in a fixed order; a docstring that came before is not repeated.

    Raises:
        UserError: a package isn't installed, or this Python has no source at all.
    """

    def __init__(self, config: PythonDocsConfig, workers: Workers):
        self.dropped: Counter[str] = Counter()
        self._config, self._workers = config, workers
        self._modules: list[tuple[str, _Module]] = []
        library = Path(sysconfig.get_paths()["stdlib"])
        self._modules += [("python", module) for module in _modules_under(library, "")]
        # The language reference comes first, so that a small maximum_bytes still has prose.
        self._modules.sort(key=lambda entry: entry[1].name != TOPICS)
        for package in config.packages:
            self._modules += [(package, module) for module in _modules_under(_package_folder(package), package)]
        if not self._modules:
            raise UserError(f"this Python has no source under {library}: take another corpus, with corpus=files")

    def inputs(self) -> list[InputFile]:
        return [InputFile(module.path, source) for source, module in self._modules]

    def documents(self) -> Iterator[Document]:
        """Yield the documents; they are parsed once and kept, no more than `maximum_bytes` of them."""
        yield from self._documents

    @functools.cached_property
    def _documents(self) -> list[Document]:
        documents: list[Document] = []
        known: set[str] = set()
        size = 0
        modules = [module for _, module in self._modules]
        chunks = [modules[start : start + MODULES_PER_TASK] for start in range(0, len(modules), MODULES_PER_TASK)]
        read = itertools.chain.from_iterable(self._workers.map(_read_modules, chunks))
        for (source, module), sections in zip(self._modules, read):
            for text in _texts(module, sections, known):
                size += len(text.encode())
                if size > self._config.maximum_bytes:
                    return documents
                documents.append(Document(text, source, module.name))
        return documents


def _package_folder(name: str) -> Path:
    # Asks the finder on sys.path and never imports: a dotted name would import its parents.
    spec = importlib.machinery.PathFinder.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"corpus.packages: there is no installed package `{name}`")
    return Path(next(iter(spec.submodule_search_locations)))


def _modules_under(folder: Path, package: str) -> list[_Module]:
    modules = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        for path in (Path(parent, file) for file in files if file.endswith(".py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts) if package else parts).removesuffix(".__init__")
            modules.append(_Module(name, path))
    return sorted(modules, key=lambda module: (module.name, module.path))


# A heading, such as `class Fraction(numbers.Rational)`, and the docstring under it.
Section = tuple[str, str]


def _texts(module: _Module, sections: list[Section], known: set[str]) -> Iterator[str]:
    """Yield the module's documents: its sections behind one another, or each on its own for the topics."""
    fresh = []
    for heading, text in sections:
        if text not in known:
            known.add(text)
            fresh.append(f"{heading}\n\n{text}\n")
    if module.name == TOPICS:
        yield from fresh
    elif fresh:
        yield "\n\n".join(fresh)


def _read_modules(modules: list[_Module]) -> list[list[Section]]:
    return [_read_module(module) for module in modules]


def _read_module(module: _Module) -> list[Section]:
    """Return the docstrings of a module's source, in the order in which they stand there."""
    try:
        tree = _parse(module.path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        # Templates and files for other versions of Python lie among the sources; they are no documentation.
        return []
    if module.name == TOPICS:
        return _topics(tree)
    sections = _sections(tree, f"module {module.name}", "")
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
