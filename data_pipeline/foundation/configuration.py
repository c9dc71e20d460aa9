"""From command-line overrides to a typed configuration, through Hydra; every mistake becomes one clear line.

A root (`conf/train.yaml`) names its schema dataclass and its groups (`conf/model/…`). Keys that the schema doesn't
have are refused, wherever they come from; nothing in a configuration can name code to run or read what lies outside.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import hydra.errors
import omegaconf.errors
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from data_pipeline.foundation.errors import UserError

Schema = TypeVar("Schema")

RESOLVER = re.compile(r"\$\{\s*[^\s{}:]+\s*:")
"""How a value begins that OmegaConf asks a function for."""


def configuration_folder() -> Path:
    """Return the folder that holds the installed `conf` tree."""
    return Path(str(resources.files("conf")))


def register(name: str, schema: type, group: str | None = None) -> None:
    """Make a dataclass known to Hydra under `name`, to be listed in the defaults of the YAML files it types.

    A field `dict[str, float]` or `dict[str, SomeDataclass]` takes entries of any name; what is in them is checked.
    """
    node = OmegaConf.structured(schema)
    for key in _typed_dicts(node):
        OmegaConf.set_struct(OmegaConf.select(node, key), False)
    ConfigStore.instance().store(name=name, node=node, group=group)


@dataclass(frozen=True)
class Composed(Generic[Schema]):
    """A configuration as an object to work with, as plain data to store, and the overrides that made it."""

    value: Schema
    data: dict[str, Any]
    overrides: list[str]

    def yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(self.data))


def compose_configuration(
    root: str, overrides: Sequence[str], schema: type[Schema], more_folders: Sequence[Path] = ()
) -> Composed[Schema]:
    """Compose `conf/ROOT.yaml` with overrides into an instance of its schema.

    Args:
        root: name of the root file without `.yaml`; its schema must be registered.
        overrides: as typed by the user: `steps=300`, `model=nano`, `model.width=128`, `deepspeed.KEY=VALUE`.
        schema: the root's dataclass.
        more_folders: folders of the user's own that are searched for groups and options before ours.

    Raises:
        UserError: an override that can't be parsed, an unknown key, group or option, a value of the wrong type,
            a required key left out.
    """
    for folder in more_folders:
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: there is no such folder")
        _check_files(folder)
    groups = available_groups(more_folders)
    parsed = _parse(overrides)
    prepared = _entries(parsed, schema) + [_prepare(override, groups, schema) for override in parsed]
    if more_folders:
        search = ",".join(f"'file://{folder.resolve()}'" for folder in more_folders)
        prepared.append(f"hydra.searchpath=[{search}]")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(configuration_folder()), version_base="1.3"):
            config = compose(root, overrides=prepared)
        _refuse_resolvers(OmegaConf.to_container(config), root)
        data = OmegaConf.to_container(config, resolve=True, throw_on_missing=True, enum_to_str=True)
        value = OmegaConf.to_object(config)
    except omegaconf.errors.MissingMandatoryValue as error:
        key = error.full_key or str(error).split(": ")[-1].split("\n")[0]
        raise UserError(f"`{key}` is required: give it as {key}=VALUE") from None
    except (hydra.errors.HydraException, omegaconf.errors.OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(error, root, groups, schema)) from None
    assert isinstance(value, schema)
    return Composed(value, cast(dict[str, Any], data), list(overrides))


def available_groups(more_folders: Sequence[Path] = ()) -> dict[str, list[str]]:
    """Return every group with the names of its options, ours and those in the user's folders."""
    groups: dict[str, set[str]] = {}
    for folder in (configuration_folder(), *more_folders):
        for file in folder.rglob("*.yaml"):
            group = file.parent.relative_to(folder).as_posix()
            if group != ".":
                groups.setdefault(group, set()).add(file.stem)
    return {group: sorted(options) for group, options in sorted(groups.items())}


def nearest(word: str, known: Sequence[str]) -> str:
    """Return ` Did you mean `X`?` for the known word that is most like `word`, or nothing."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean `{match[0]}`?" if match else ""


def first_on(settings: Mapping[str, object]) -> str | None:
    """Return the first of some settings that is on, given whether each is, or None."""
    return next((setting for setting, is_on in settings.items() if is_on), None)


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except hydra.errors.HydraException:
            raise UserError(
                f"can't read `{text}`: settings are written KEY=VALUE, lists as [a,b]; put quotes around a value with "
                "spaces or other special characters, as in 'prompt=\"Once upon a time\"'"
            ) from None
    return parsed


def _prepare(override: Override, groups: Mapping[str, list[str]], schema: type) -> str:
    """Return the override as Hydra wants it: options that look like numbers quoted, free-form keys appended."""
    text, key, value = str(override.input_line), override.key_or_group, override.value()
    if override.is_sweep_override():
        raise UserError(f"`{text}`: several values for one key are a sweep; one run takes one value")
    if override.is_delete():
        raise UserError(f"`{text}`: a key can't be removed; set it to the value you want instead")
    if re.split(r"[./]", key)[0] == "hydra":
        raise UserError(f"`{text}`: Hydra's own settings are ours to set")
    free_form = key.split(".")[0] in _free_form_keys(schema) and "." in key
    if text.startswith("+") and not free_form:
        raise UserError(f"`{text}`: nothing can be added to a configuration; write {key}=… without the plus sign")
    if free_form:
        return "++" + text.lstrip("+")
    if key in groups and isinstance(value, str) and value not in groups[key]:
        raise UserError(_no_option(key, value, groups[key]))
    if key in groups and isinstance(value, int):
        return f"{key}='{value}'"
    return text


def _check_files(folder: Path) -> None:
    """Refuse files of the user's, which others may have written, that reach for more than settings. Raises UserError.

    Hydra itself would leave some of it out without a word, and read the environment where options are chosen.
    """
    for path in sorted(folder.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"{path} can't be read: {' '.join(str(error).split())}") from None
        keys = [str(key) for key in content] if isinstance(content, dict) else []
        chosen = content.get("defaults") if isinstance(content, dict) else None
        packages = re.findall(r"^#\s*@package\s+(\S+)", text, re.MULTILINE)
        if leaving := [option for option in _texts(chosen) if ".." in option.split("/")]:
            raise UserError(f"{path}: the option {leaving[0]} leads out of the folder")
        reached = [*keys, *packages, *path.relative_to(folder).parts[:1], *_texts(chosen)]
        if any("hydra" in re.split(r"[^\w]+", name) for name in reached):
            raise UserError(f"{path}: Hydra's own settings are ours to set")
        _refuse_resolvers(content, str(path))


def _refuse_resolvers(value: Any, where: str) -> None:
    """Refuse values to be had from elsewhere, such as a secret from the environment. Raises UserError."""
    for text in _texts(value):
        if found := RESOLVER.search(text):
            raise UserError(
                f"{where}: {found[0]}…}} would bring in what lies outside of the configuration; "
                "only another key can be referred to, as ${KEY}"
            )


def _texts(value: Any) -> list[str]:
    """Return every text in plain data, names of keys too."""
    if isinstance(value, dict):
        return [text for item in (*value, *value.values()) for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _entries(overrides: Sequence[Override], schema: type) -> list[str]:
    """Return overrides that make the entries of typed dicts in which the given ones set keys.

    Hydra sets `corpus.sources.web.weight` only where there is a `web`, so an empty one is merged in before, which has
    the defaults of its dataclass.
    """
    store = ConfigStore.instance()
    dicts = _typed_dicts(OmegaConf.structured(schema))
    for group in available_groups():
        options = [name for name in store.list(group) if name.endswith("_schema.yaml")] if group in store.repo else []
        for option in options:
            found = _typed_dicts(store.load(f"{group}/{option}").node)
            dicts |= {f"{group}.{key}": of_dataclasses for key, of_dataclasses in found.items()}
    entries: dict[str, None] = {}
    for override in overrides:
        for key in sorted(key for key, of_dataclasses in dicts.items() if of_dataclasses):
            entry, dot, _ = override.key_or_group.removeprefix(f"{key}.").partition(".")
            if override.key_or_group.startswith(f"{key}.") and dot:
                [as_value] = _parse([f"name={entry}"])
                if not isinstance(as_value.value(), str):
                    raise UserError(f"`{override.input_line}`: `{entry}` can't be a name, for it is read as a value")
                entries[f"{key}={{{entry}: {{}}}}"] = None
    return list(entries)


def _typed_dicts(node: DictConfig, prefix: str = "") -> dict[str, bool]:
    """Return the dotted names of the keys under which a user chooses names, and whether dataclasses are under those."""
    names: dict[str, bool] = {}
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            if child._metadata.object_type is dict and child._metadata.element_type is not Any:
                names[f"{prefix}{key!s}"] = is_dataclass(child._metadata.element_type)
            names |= _typed_dicts(child, f"{prefix}{key!s}.")
    return names


def _free_form_keys(schema: type) -> list[str]:
    """Return the keys of the root whose content is free, such as the options that go through to DeepSpeed."""
    assert is_dataclass(schema)
    return [name for name, field in schema.__dataclass_fields__.items() if str(field.type).startswith("dict[str, Any]")]


def _explain(error: Exception, root: str, groups: Mapping[str, list[str]], schema: type) -> str:
    """Turn an error of Hydra or OmegaConf into one line that names the key, the reason and the mend."""
    cause = error.__cause__ or error.__context__
    cause = cause if isinstance(cause, omegaconf.errors.OmegaConfBaseException) else error
    key = getattr(cause, "full_key", None)
    if isinstance(cause, (omegaconf.errors.ConfigAttributeError, omegaconf.errors.ConfigKeyError)) and key:
        beside = [f"{key.rpartition('.')[0]}.{name!s}" for name in cause.parent_node or ()]
        return f"unknown key `{key}`.{nearest(key, known_keys(schema) + list(groups) + beside)}"
    if isinstance(cause, omegaconf.errors.ValidationError) and key:
        return f"`{key}`: {str(cause).splitlines()[0]}"
    message = " ".join(str(error).split())
    if missing := re.search(r"Could not find '([\w/]+)/([^/']+)'", message):
        group, option = missing.groups()
        options = groups.get(group, [])
        return _no_option(group, option, options)
    return f"the configuration of `{root}` can't be composed: {message}"


def _no_option(group: str, option: str, options: Sequence[str]) -> str:
    return f"`{group}` has no option `{option}`.{nearest(option, options)} Options: {', '.join(options)}"


def known_keys(schema: type) -> list[str]:
    """Return the dotted names of all keys under a schema."""

    def walk(node: Any, prefix: str) -> list[str]:
        names = []
        for key in node:
            names.append(prefix + str(key))
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                names += walk(child, f"{prefix}{key}.")
        return names

    return walk(OmegaConf.structured(schema), "")
