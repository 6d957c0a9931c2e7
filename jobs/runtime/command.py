"""The frame of a command: its options come from a dataclass, and an error becomes one message."""

import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from jobs.runtime.native_stderr import hide_native_noise
from jobs.runtime.ray_cluster import is_submitted_job
from schemas.delta.places import reason
from schemas.delta.store import StoreError, Table
from schemas.errors import UsageError, UserError, without_secrets
from schemas.tables.embeddings import Fingerprint

Config = TypeVar("Config")
Result = TypeVar("Result")
Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True)
class TableOptions:
    """Options of every command that works on a table.

    Attributes:
        table: folder or bucket prefix of the table
        storage_option: KEY=VALUE for the object store, once for each
        json: print one line of JSON, the last on stdout
    """

    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    storage_option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    json: Flag = False

    def open(self, *, derived: bool = False) -> Table:
        """Open the table.

        Args:
            derived: also open a table that a follow-up job made, which holds no vectors.

        Raises:
            StoreError: there is no such table, or embatch did not make it.
        """
        uri = table_uri(self.table)
        table = Table.open(uri, storage_options(self.storage_option))
        if table is None:
            raise StoreError(
                f"There is no table at {uri}. `embatch embed SOURCE {self.table} --model MODEL` makes one."
            )
        is_ours = derived and any("note" in commit for commit in table.history())
        if Fingerprint.of(table.schema) is None and not is_ours:
            raise StoreError(f"{uri} is a Delta table, but not one of embeddings.")
        return table


@dataclass
class CommandOutcome:
    """Exit code of a command: 0 if it is done, 1 if it failed, 2 if it was called wrongly, 130 if interrupted."""

    exit_code: int = 0


def parse(
    config: type[Config], command: str, doc: str | None, arguments: Sequence[str] | None
) -> Config:
    """Parse the options of the command line; a wrong one ends the process with exit code 2 and a message."""
    try:
        _refuse_stray_pairs(sys.argv[1:] if arguments is None else arguments)
        return tyro.cli(
            config,
            prog=f"embatch {command}",
            description=re.sub("(?m)^ *embatch ", "    $ embatch ", doc or ""),  # else lines join
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except UsageError as error:
        print(f"embatch {command}: {without_secrets(str(error))}", file=sys.stderr)
        raise SystemExit(2) from error


def _refuse_stray_pairs(words: Sequence[str]) -> None:
    """Raise a UsageError if KEY=VALUE lacks its option; the message does not repeat it: it may be a secret."""
    for before, word in zip(["", *words], words, strict=False):
        if re.match("(AWS|AZURE|GOOGLE)_[A-Z_]+=", word) and before != "--storage-option":
            raise UsageError("KEY=VALUE stands alone: write --storage-option before each.")


USER_ERRORS = (UserError, OSError)  # an OSError comes from the machine, a store or the network


def error_message(error: Exception) -> str:
    """Message of an error for the user: errors of stores in plain words, secrets cut out."""
    return without_secrets(reason(error) if isinstance(error, OSError) else str(error))


@contextlib.contextmanager
def user_errors(*, hides_noise: bool = False) -> Iterator[CommandOutcome]:
    """Turn the errors that a user can cause into one message on stderr and an exit code.

    Args:
        hides_noise: hide from the terminal what C++ code writes to stderr.
    """
    outcome = CommandOutcome()
    with hide_native_noise() if hides_noise else contextlib.nullcontext():
        try:
            yield outcome
        except USER_ERRORS as error:
            print(f"embatch: {error_message(error)}", file=sys.stderr)
            outcome.exit_code = 2 if isinstance(error, UsageError) else 1
        except KeyboardInterrupt:
            print("embatch: interrupted.", file=sys.stderr)
            outcome.exit_code = 130


def run_command(
    config_type: type[Config],
    command: str,
    doc: str | None,
    arguments: Sequence[str] | None,
    run: Callable[[Config], Result],
    text: Callable[[Config, Result], str],
) -> int:
    """Run a whole command: parse its options, do its work, print the result as text or one line of JSON.

    Returns:
        The exit code.
    """
    config = parse(config_type, command, doc, arguments)
    with user_errors() as outcome:
        result: Any = run(config)
        if getattr(config, "json", False):
            plain = result if isinstance(result, list | dict) else dataclasses.asdict(result)
            print(json.dumps(plain, default=str), flush=True)
        else:
            print(text(config, result), flush=True)
    return outcome.exit_code


def storage_options(pairs: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` pairs as a dict.

    Raises:
        UsageError: a pair without `=`; its value is not shown, since it may be a secret.
    """
    for pair in pairs:
        if "=" not in pair:
            raise UsageError(
                "--storage-option expects KEY=VALUE, once for each, and got a word without '='."
            )
    return dict(pair.split("=", 1) for pair in pairs)


def table_uri(table: str) -> str:
    """Address of the table that every node understands: a URI or an absolute path.

    Raises:
        UsageError: a relative path under a submitted job, where the table would be lost.
    """
    if "://" in table:
        return table.rstrip("/")
    if is_submitted_job() and not os.path.isabs(table):
        raise UsageError(
            f"TABLE {table} is relative, and a submitted job runs in a temporary copy of its folder, "
            "where the table would be lost. Give an absolute path or a URI such as s3://bucket/table."
        )
    return str(Path(table).absolute())
