"""What a corpus.toml declares: the steps of a refresh, each after those whose tables it reads.

A section is a command and the name of what it makes, `[embed.articles]`; its keys are the command's
options. Tables lie in one folder, and are called by their names; all other paths are seen from the
file's own folder.
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
RESERVED = (".next", ".failures")  # what a table's own companions are called
REFRESHES = "refreshes"  # the table of what refreshes did
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
        config: its options.
        run: does the work.
        out: the option that says where the result goes; empty where the result is figures.
        tables: options that name tables which it reads.
        files: options that name files which it reads: a file that changed makes a step due.
        counted: options, between blanks, that make a step due when their value or their default
            changes. One that is not among them counts only where it is not at its default: so a new
            option makes nothing due.
        makes_table: whether the result is a table, in the folder of tables.
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
    """One section.

    Attributes:
        command: of embatch.
        name: of what it makes.
        config: the command's options.
        inputs: URIs of the tables that it reads.
        output: the URI of the table or the path of the file that it makes; empty where it makes none.
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
        """Its command."""
        return KINDS[self.command]

    def options(self) -> str:
        """A hash of all that decides what the step makes of its tables, files that it names included."""
        told: dict[str, Any] = {}
        for option in dataclasses.fields(self.config):
            name, value = option.name, getattr(self.config, option.name)
            counts = name in self.kind.counted.split() or value != option.default
            if name in UNTOLD or not counts:
                continue
            told[name] = value
            if name in self.kind.files and os.path.isfile(value):
                state = os.stat(value)
                told[name] = (value, state.st_size, state.st_mtime_ns)
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Corpus:
    """A corpus.toml.

    Attributes:
        path: of the file.
        tables: folder or bucket prefix in which the tables lie.
        steps: in an order in which they can run.
        history: the page of all refreshes, empty for none.
        keep_days: older versions of tables lose their files; None keeps all.
        storage_option: `KEY=VALUE` pairs for the object store.
    """

    path: Path
    tables: str
    steps: tuple[Step, ...]
    history: str = ""
    keep_days: float | None = None
    storage_option: tuple[str, ...] = ()

    def place(self, name: str) -> str:
        """Where a table lies."""
        return f"{self.tables}/{name}"


@dataclass
class _Reading:
    """A file half read: what its sections have in common."""

    path: Path
    tables: str
    shared: dict[str, Any] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)

    def wrong(self, where: str, what: str) -> UsageError:
        return UsageError(f"{self.path}, {where}: {what}")

    def place(self, name: object) -> object:
        """Where a declared table lies; what is no such name stays as it is."""
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
                places = [
                    self.place(one) for one in (given if isinstance(given, list) else [given])
                ]
                values[option] = places if isinstance(given, list) else places[0]
        try:
            config = TypeAdapter(kind.config).validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            raise self.wrong(where, _told(error)) from None
        except TypeError as error:  # a date, say
            raise self.wrong(where, f"{error}.") from None
        inputs = [getattr(config, option) for option in kind.tables]
        flat = [uri for each in inputs for uri in ([each] if isinstance(each, str) else each)]
        output = getattr(config, kind.out) if kind.out else ""
        return Step(command, name, config, tuple(filter(None, flat)), output)


def read_corpus(path: str | Path) -> Corpus:
    """Read and check a corpus.toml.

    Raises:
        OSError: it cannot be read.
        UsageError: it is no TOML, or says something that no command knows; names the section.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise FileNotFoundError(
            f"There is no file {path}. `embatch init` writes one to begin with."
        )
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
    for key, value in told.items():
        if key not in SETTINGS and key not in KINDS:
            raise UsageError(f"{path}: {_unknown(key, 'key', [*SETTINGS, *KINDS])}")
        if not isinstance(value, SETTINGS.get(key, dict)) or isinstance(value, bool):
            raise UsageError(f"{path}: {key} = {value!r} is not of the kind that {key} takes.")
    if told.get("keep_days", 0) < 0:
        raise UsageError(f"{path}: keep_days = {told['keep_days']}: expected 0 or more.")
    if not told.get("embed"):
        raise UsageError(f"{path} declares no table: expected a section such as [embed.articles].")
    storage = tuple(f"{key}={value}" for key, value in told.get("storage", {}).items())
    shared = {key.replace("-", "_"): value for key, value in told.get("all", {}).items()}
    shared["storage_option"] = list(storage)
    tables = told.get("tables", "tables").rstrip("/")
    reading = _Reading(path, tables if "://" in tables else str(path.parent / tables), shared)
    sections = [(kind, *section) for kind in KINDS for section in told.get(kind, {}).items()]
    _check_shared(reading, sections)
    _check_names(reading, sections)
    return Corpus(
        path=path,
        tables=reading.tables,
        steps=_in_order(reading, [reading.step(*section) for section in sections]),
        history=told.get("history", ""),
        keep_days=told.get("keep_days"),
        storage_option=storage,
    )


def _check_names(reading: _Reading, sections: list[tuple[str, str, Any]]) -> None:
    """Names can be names of tables, and no two tables have the same."""
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
    """Every key of [all] is an option of some section's command."""
    commands = {command for command, _, _ in sections}
    known = {o.name for c in commands for o in dataclasses.fields(KINDS[c].config)}
    for key in reading.shared:
        if key not in known:
            raise reading.wrong("[all]", _unknown(key, "option", sorted(known)))


def _in_order(reading: _Reading, steps: list[Step]) -> tuple[Step, ...]:
    """The file's order, but each step after the makers of what it reads."""
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


def _told(error: ValidationError) -> str:
    """What was expected, for each option that is wrong; values are not shown where they may be secret."""
    parts = []
    for one in error.errors():
        name = ".".join(map(str, one["loc"]))
        text = one["msg"].removeprefix("Value error, ").rstrip(".")
        given = f" (it is {one['input']!r})" if name and one["type"] != "missing" else ""
        parts.append(f"{name}: {text}{given}." if name else f"{text}.")
    return " ".join(parts)
