"""What all commands share: options from a dataclass, and errors as one message."""

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

from jobs.runtime.native_stderr import native_noise_in_a_file
from jobs.runtime.ray_cluster import under_submitted_job
from schemas.delta.places import reason
from schemas.delta.store import StoreError, Table
from schemas.errors import UsageError, UserError, without_secrets
from schemas.tables.embeddings import Fingerprint

Config = TypeVar("Config")
Result = TypeVar("Result")
Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True)
class TableOptions:
    """What every command on a table takes.

    Attributes:
        table: folder or bucket prefix of the table
        storage_option: KEY=VALUE for the object store, once for each
        json: print one line of JSON, the last on stdout
    """

    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    storage_option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    json: Flag = False

    def open(self, *, derived: bool = False) -> Table:
        """The table.

        Args:
            derived: take also one that a follow-up job made: it holds no vectors.

        Raises:
            StoreError: there is none, or none of embatch.
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
    """How a command ended: 0 done, 1 failed, 2 wrong usage."""

    exit_code: int = 0


def parse(
    config: type[Config], command: str, doc: str | None, arguments: Sequence[str] | None
) -> Config:
    """Options from the command line; wrong ones end the process with 2 and a message."""
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
    """A forgotten option is told here, where what may be a secret is not repeated."""
    for before, word in zip(["", *words], words, strict=False):
        if re.match("(AWS|AZURE|GOOGLE)_[A-Z_]+=", word) and before != "--storage-option":
            raise UsageError("KEY=VALUE stands alone: write --storage-option before each.")


USER_ERRORS = (UserError, OSError)  # the second: what the machine, a store or the network answers


def explained(error: Exception) -> str:
    """An error as a user is told it: what is known of stores in plain words, and no secrets."""
    return without_secrets(reason(error) if isinstance(error, OSError) else str(error))


@contextlib.contextmanager
def user_errors(*, hides_noise: bool = False) -> Iterator[CommandOutcome]:
    """Turn the errors that a user can cause into one message on stderr and an exit code.

    Args:
        hides_noise: keep what native code writes to stderr from the terminal.
    """
    outcome = CommandOutcome()
    with native_noise_in_a_file() if hides_noise else contextlib.nullcontext():
        try:
            yield outcome
        except USER_ERRORS as error:
            print(f"embatch: {explained(error)}", file=sys.stderr)
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
    """A whole command: parse, run, print for a person or as one line of JSON.

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
    """The table's place in a form that holds on every node: a URI or an absolute path.

    Raises:
        UsageError: a relative path under a submitted job, where the table would be lost.
    """
    if "://" in table:
        return table.rstrip("/")
    if under_submitted_job() and not os.path.isabs(table):
        raise UsageError(
            f"TABLE {table} is relative, and a submitted job runs in a temporary copy of its folder, "
            "where the table would be lost. Give an absolute path or a URI such as s3://bucket/table."
        )
    return str(Path(table).absolute())
