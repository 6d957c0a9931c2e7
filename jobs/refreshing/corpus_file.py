"""Read a corpus.toml, which declares the steps of a refresh, and put the steps into an order.

The title of a section is a command and the name of its result, `[embed.articles]`; its keys are the
command's options. Tables lie in one folder, and sections refer to them by name. All other paths are relative
to the file's own folder.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from jobs import embed, evaluate, neighbours, project, report, zero_shot
from jobs.sync.config import EmbedConfig
from schemas.errors import UsageError

NAME = re.compile(r"\w[\w.-]*")
RESERVED = (".next", ".failures")  # endings of tables that belong to another table
REFRESHES = "refreshes"  # the table with a row for each step of each refresh
SETTINGS: dict[str, Any] = {
    "tables": str,
    "history": str,
    "keep_days": (int, float),
    "storage": dict,
    "all": dict,
}
NOT_IN_SECTIONS = ("json", "dry_run", "storage_option")
UNTOLD = ("storage_option", "json", "wait", "address", "device", "actors", "verbose")


@dataclass(frozen=True)
class Kind:
    """A command that a section may name.

    Attributes:
        config: class of the command's options.
        run: does the command's work.
        out: name of the option for the place of the result; empty if the result is figures.
        tables: names of options for tables that the command reads.
        files: names of options for files that the command reads; a file that changed makes a step due.
        counted: names of options, separated by blanks, that make a step due when their value or their
            default changes. Any other option counts only if its value is not the default, so that a new
            option makes no step due.
        makes_table: True if the result is a table in the folder of tables.
    """

    config: type[Any]
    run: Callable[[Any], Any]
    out: str
    tables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    counted: str = ""
    makes_table: bool = True


KINDS = {
    "embed": Kind(EmbedConfig, embed.run, "table"),
    "neighbours": Kind(
        neighbours.NeighboursConfig,
        neighbours.run,
        "out",
        ("base", "queries"),
        counted="base out queries k index anew",
    ),
    "project": Kind(
        project.ProjectConfig,
        project.run,
        "out",
        ("table", "onto"),
        counted="table out method dim onto sample seed refit picture label_column",
    ),
    "zero-shot": Kind(
        zero_shot.ZeroShotConfig,
        zero_shot.run,
        "out",
        ("table", "prompts"),
        counted="table prompts out label_column top picture",
    ),
    "evaluate": Kind(
        evaluate.EvaluateConfig,
        evaluate.run,
        "",
        ("table", "queries", "compare", "compare_queries"),
        files=("qrels", "scores", "analogies", "word_pairs"),
        counted="table queries qrels scores analogies word_pairs label_column compare compare_queries picture",
        makes_table=False,
    ),
    "report": Kind(
        report.ReportConfig,
        report.run,
        "out",
        ("tables", "before"),
        counted="tables out label_column before images",
        makes_table=False,
    ),
}


@dataclass(frozen=True)
class Step:
    """One section of a corpus.toml.

    Attributes:
        command: name of the command.
        name: of the step's result.
        config: the command's options.
        inputs: URIs of the tables that the step reads.
        output: URI of the table, or path of the file, that the step makes; empty if it makes none.
    """

    command: str
    name: str
    config: Any
    inputs: tuple[str, ...]
    output: str

    def __str__(self) -> str:
        return f"{self.command} {self.name}"

    @property
    def kind(self) -> Kind:
        """Kind of the step's command."""
        return KINDS[self.command]

    def options(self) -> str:
        """Hash of the options that decide the step's result, and of size and time of the files they name."""
        counted: dict[str, Any] = {}
        for option in dataclasses.fields(self.config):
            name, value = option.name, getattr(self.config, option.name)
            counts = name in self.kind.counted.split() or value != option.default
            if name in UNTOLD or not counts:
                continue
            counted[name] = value
            if name in self.kind.files and os.path.isfile(value):
                state = os.stat(value)
                counted[name] = (value, state.st_size, state.st_mtime_ns)
        return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Corpus:
    """Content of a corpus.toml.

    Attributes:
        path: of the file.
        tables: folder or bucket prefix in which the tables lie.
        steps: in an order in which they can run.
        history: file for the page of all refreshes; empty for no page.
        keep_days: age in days above which versions of tables lose their files; None keeps all.
        storage_option: `KEY=VALUE` pairs for the object store.
    """

    path: Path
    tables: str
    steps: tuple[Step, ...]
    history: str = ""
    keep_days: float | None = None
    storage_option: tuple[str, ...] = ()

    def place(self, name: str) -> str:
        """Address of a table, by its name."""
        return f"{self.tables}/{name}"


@dataclass
class _Reading:
    """A corpus.toml while its sections are read: all that they share.

    Attributes:
        path: of the file.
        tables: folder or bucket prefix in which the tables lie.
        shared: options of the section [all].
        declared: names of the tables that sections make.
    """

    path: Path
    tables: str
    shared: dict[str, Any] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)

    def wrong(self, where: str, what: str) -> UsageError:
        return UsageError(f"{self.path}, {where}: {what}")

    def place(self, name: object) -> object:
        """Address of a declared table, by its name; any other value stays as it is."""
        return f"{self.tables}/{name}" if name in self.declared else name

    def step(self, command: str, name: str, section: Mapping[str, Any]) -> Step:
        kind, where = KINDS[command], f"[{command}.{name}]"
        options = (option.name for option in dataclasses.fields(kind.config))
        known = [name for name in options if name not in NOT_IN_SECTIONS]
        shared = {*known, "storage_option"}
        values = {key: value for key, value in self.shared.items() if key in shared}
        for key, value in section.items():
            option = key.replace("-", "_")
            if option not in known:
                raise self.wrong(where, _unknown(key, "option", known))
            values[option] = value
        if kind.makes_table:
            if kind.out in section:
                raise self.wrong(where, f"{kind.out} is the section's name. Leave it out.")
            values[kind.out] = self.place(name)
        elif kind.out:
            values.setdefault(kind.out, f"{name}.html")
        for option in kind.tables:
            if option in values:
                given = values[option]
                names = given if isinstance(given, list) else [given]
                places = [self.place(table) for table in names]
                values[option] = places if isinstance(given, list) else places[0]
        try:
            config = TypeAdapter(kind.config).validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            raise self.wrong(where, _explain(error)) from None
        except TypeError as error:  # a date, say
            raise self.wrong(where, f"{error}.") from None
        inputs = [getattr(config, option) for option in kind.tables]
        flat = [uri for each in inputs for uri in ([each] if isinstance(each, str) else each)]
        output = getattr(config, kind.out) if kind.out else ""
        return Step(command, name, config, tuple(filter(None, flat)), output)


def read_corpus(path: str | Path) -> Corpus:
    """Read and check a corpus.toml.

    Raises:
        OSError: the file cannot be read.
        UsageError: the file is no TOML, or names an option that no command has; the message names the
            section.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise FileNotFoundError(
            f"There is no file {path}. `embatch init` writes one to begin with."
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
    for key, value in content.items():
        if key not in SETTINGS and key not in KINDS:
            raise UsageError(f"{path}: {_unknown(key, 'key', [*SETTINGS, *KINDS])}")
        if not isinstance(value, SETTINGS.get(key, dict)) or isinstance(value, bool):
            raise UsageError(f"{path}: {key} = {value!r} is not of the kind that {key} takes.")
    if content.get("keep_days", 0) < 0:
        raise UsageError(f"{path}: keep_days = {content['keep_days']}: expected 0 or more.")
    if not content.get("embed"):
        raise UsageError(f"{path} declares no table: expected a section such as [embed.articles].")
    storage = tuple(f"{key}={value}" for key, value in content.get("storage", {}).items())
    shared = {key.replace("-", "_"): value for key, value in content.get("all", {}).items()}
    shared["storage_option"] = list(storage)
    tables = content.get("tables", "tables").rstrip("/")
    reading = _Reading(path, tables if "://" in tables else str(path.parent / tables), shared)
    sections = [(kind, *section) for kind in KINDS for section in content.get(kind, {}).items()]
    _check_shared(reading, sections)
    _check_names(reading, sections)
    return Corpus(
        path=path,
        tables=reading.tables,
        steps=_in_order(reading, [reading.step(*section) for section in sections]),
        history=content.get("history", ""),
        keep_days=content.get("keep_days"),
        storage_option=storage,
    )


def _check_names(reading: _Reading, sections: list[tuple[str, str, Any]]) -> None:
    """Raise a UsageError if a section's name is no name for a table, or is used twice."""
    for command, name, section in sections:
        where = f"[{command}.{name}]"
        if not isinstance(section, dict):
            expected = f"expected a section such as [{command}.articles]."
            raise UsageError(f"{reading.path}: {command}.{name} = {section!r}: {expected}")
        if not NAME.fullmatch(name):
            raise reading.wrong(where, "a name is of letters, digits, - and _.")
        if name == REFRESHES or name.endswith(RESERVED):
            raise reading.wrong(
                where, f"the names {REFRESHES!r}, '….next' and '….failures' are taken."
            )
        if KINDS[command].makes_table:
            if name in reading.declared:
                raise reading.wrong(where, "another section makes a table of this name.")
            reading.declared.add(name)


def _check_shared(reading: _Reading, sections: list[tuple[str, str, Any]]) -> None:
    """Raise a UsageError if a key of [all] is an option of no section's command."""
    commands = {command for command, _, _ in sections}
    known = {o.name for c in commands for o in dataclasses.fields(KINDS[c].config)}
    for key in reading.shared:
        if key not in known:
            raise reading.wrong("[all]", _unknown(key, "option", sorted(known)))


def _in_order(reading: _Reading, steps: list[Step]) -> tuple[Step, ...]:
    """Steps in the file's order, but each after the steps that make the tables it reads."""
    waiting, ordered = list(steps), []
    while waiting:
        to_come = {step.output for step in waiting if step.output}
        ready = next((step for step in waiting if to_come.isdisjoint(step.inputs)), None)
        if ready is None:
            names = ", ".join(map(str, waiting))
            raise UsageError(f"{reading.path}: each of these needs another of them: {names}.")
        waiting.remove(ready)
        ordered.append(ready)
    return tuple(ordered)


def _unknown(key: str, what: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key.replace("-", "_"), known, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {key!r}. Known: {', '.join(known)}.{hint}"


def _explain(error: ValidationError) -> str:
    """Message for each wrong option: what was expected and got; an error without an option shows no value."""
    parts = []
    for wrong in error.errors():
        name = ".".join(map(str, wrong["loc"]))
        text = wrong["msg"].removeprefix("Value error, ").rstrip(".")
        given = f" (it is {wrong['input']!r})" if name and wrong["type"] != "missing" else ""
        parts.append(f"{name}: {text}{given}." if name else f"{text}.")
    return " ".join(parts)
