"""Remove rows by id from a table and from its failures, as for a request of erasure.

    embatch delete tables/articles --ids ids.txt
    embatch vacuum tables/articles --hours 0

Older versions hold the rows until `vacuum` has run. The id of a document removes all its passages. Each line
of the file is one id, its blanks included; ids with line feeds go into a .jsonl file, one JSON string a line.
Exit code 0 means that the table holds none of the ids any more, also in a second run. Ids that the table did
not hold are named on stderr; `unknown_ids` of --json has all of them.
"""

import json
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.runtime.command import Flag, TableOptions, run_command
from schemas.delta import claim
from schemas.delta.fragments import Fragment
from schemas.delta.rewriting import rewrite
from schemas.delta.store import Table
from schemas.errors import UsageError
from schemas.tables.failures import FailureLog
from sources.rows import SourceError

SHOWN_IDS = 10  # unknown ids that stderr names


@dataclass(frozen=True)
class DeleteConfig(TableOptions):
    """The table, and the rows to remove.

    Attributes:
        ids: file with one id a line; in a .jsonl file each line is a JSON string
        wait: wait while another run writes to the table, instead of leaving
    """

    ids: str = ""
    wait: Flag = False

    def __post_init__(self) -> None:
        if not self.ids:
            raise UsageError("--ids is missing: give a file with one id a line.")


@dataclass(frozen=True)
class DeleteSummary:
    """Counts of removed rows and of unknown ids.

    Attributes:
        deleted: number of rows removed from the table.
        failures_deleted: number of rows removed from its failures.
        unknown: number of ids that were in neither.
        unknown_ids: these ids.
        table_version: new version of the table.
    """

    deleted: int
    failures_deleted: int
    unknown: int
    unknown_ids: list[str]
    table_version: int


def run(config: DeleteConfig) -> DeleteSummary:
    """Remove the rows in one commit.

    Raises:
        StoreError: there is no such table.
        TableBusy: another run writes to the table.
        OSError: the file of ids cannot be read.
        SourceError: the file of ids is not UTF-8, or a line of a .jsonl file is no string.
    """
    ids = pa.array(sorted(read_ids(config.ids)), pa.string())
    note = {**claim.identity(f"delete-{uuid.uuid4().hex[:6]}"), "command": "delete"}
    with claim.hold(config.open(), note, wait=config.wait) as table:
        summary = _delete(table, ids, note)
    if summary.unknown:
        named = ", ".join(map(repr, summary.unknown_ids[:SHOWN_IDS]))
        more = ", …" if summary.unknown > SHOWN_IDS else ""
        print(
            f"embatch: {summary.unknown:,} of {len(ids):,} ids were neither in {config.table} nor in"
            f" its failures: {named}{more}",
            file=sys.stderr,
        )
    return summary


def read_ids(path: str) -> set[str]:
    """Read the ids in a file, one a line.

    Only a line feed ends a line: other characters that end lines elsewhere may be part of an id.

    Raises:
        OSError: the file cannot be read.
        SourceError: the file is not UTF-8, or a line of a .jsonl file is no string.
    """
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} is not UTF-8: byte {error.start}. Save it as UTF-8, with one id a line."
        ) from error
    lines = [line.removesuffix("\r") for line in lines]
    is_json = path.lower().endswith(".jsonl")
    return {
        _string(line, f"{path}, line {number}") if is_json else line
        for number, line in enumerate(lines, 1)
        if line
    }


def _string(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, str):
        raise SourceError(f'{where}: expected a JSON string such as "a17", got {line[:40]}.')
    return value


def _delete(table: Table, ids: pa.Array, note: Mapping[str, Any]) -> DeleteSummary:
    columns = ["id", "parent_id"] if "parent_id" in table.schema.names else ["id"]
    found: set[str] = set()
    gone: dict[Fragment, np.ndarray] = {}
    for file in table.files():
        keys = table.read_file(file.name, columns)
        hits = np.zeros(len(keys), bool)
        for name in keys.column_names:
            mask = pc.is_in(keys[name], value_set=ids).to_numpy()
            hits |= mask
            found |= set(keys[name].filter(pa.array(mask)).to_pylist())
        if hits.any():
            gone[file] = np.flatnonzero(hits)
    with claim.renew_by_handle(table, note):
        kept, _ = rewrite(table, note["run"], gone, ())
    failures = FailureLog(table.uri, table.options)
    failed = pc.fill_null(pc.is_in(failures.rows["id"], value_set=ids), False).to_numpy()
    found |= set(failures.rows["id"].filter(pa.array(failed)).to_pylist())
    failures.keep(~failed, note)
    n_deleted = sum(map(len, gone.values()))
    table.commit({**note, "state": "deleted", "deleted": n_deleted}, add=kept, remove=[*gone])
    unknown = sorted(set(ids.to_pylist()) - found)
    return DeleteSummary(n_deleted, int(failed.sum()), len(unknown), unknown, table.version)


def _text(config: DeleteConfig, summary: DeleteSummary) -> str:
    return (
        f"{summary.deleted:,} rows and {summary.failures_deleted:,} failures deleted, "
        f"{summary.unknown:,} ids unknown; version {summary.table_version}.\n"
        f"Older versions hold them until `embatch vacuum {config.table} --hours 0`."
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(DeleteConfig, "delete", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
