"""Bring up to date all that one file declares: tables, neighbours, maps, figures, pages.

    embatch init
    embatch refresh corpus.toml --dry-run
    embatch refresh corpus.toml

Each table is synced with its source. A follow-up is made again only if a table that it reads has changed.
If the file names another model than before, the new vectors are made beside the table and replace the old
ones in one commit. If a step fails, only the steps that need its result are skipped. The table `refreshes`,
next to the others, gets a row about each step.
"""

import contextlib
import os
import sys
import time
import uuid
from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs import vacuum
from jobs.refreshing.corpus_file import REFRESHES, Corpus, read_corpus
from jobs.refreshing.history_page import RefreshSummary, write_page
from jobs.refreshing.steps import Steps
from jobs.runtime.command import Flag, parse, storage_options, table_uri, user_errors
from jobs.runtime.ray_cluster import is_submitted_job
from jobs.runtime.signals import Stopped, StopSignal
from schemas.delta import claim
from schemas.delta.store import Table, now
from schemas.delta.versions import vacuum as vacuum_files
from schemas.errors import UsageError
from schemas.tables.refreshes import create, record, rows_of


@dataclass(frozen=True)
class RefreshConfig:
    """Options of a refresh.

    Attributes:
        corpus: file that declares sources, tables and follow-ups; `embatch init` writes one to begin with
        dry_run: say what would be done; write nothing
        wait: wait while another refresh, or a run on one of the tables, is at work, instead of leaving
        json: print the summary as one line of JSON, the last on stdout
        verbose: show Ray's messages
    """

    corpus: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS.toml")]
    dry_run: Flag = False
    wait: Flag = False
    json: Flag = False
    verbose: Flag = False


def run(config: RefreshConfig) -> RefreshSummary:
    """Do each step that is due, and record the result of every step.

    Raises:
        UsageError: the file is wrong; the message names the section.
        OSError: the file cannot be read.
        StoreError: the table of refreshes cannot be read or written.
        TableBusy: another refresh of this corpus is at work.
        Stopped: SIGINT or SIGTERM came; the steps that were done are recorded.
    """
    corpus = read_corpus(config.corpus)
    if is_submitted_job() and not os.path.isabs(config.corpus) and "://" not in corpus.tables:
        raise UsageError(
            f"{config.corpus} is relative, and a submitted job runs in a temporary copy of its folder, where"
            ' the tables would be lost. Give its absolute path, or a URI as tables = "s3://bucket/tables".'
        )
    with contextlib.chdir(corpus.path.parent):  # the file's paths are relative to its own folder
        return _refresh(corpus, config)


def _refresh(corpus: Corpus, config: RefreshConfig) -> RefreshSummary:
    began, started = time.monotonic(), now()
    name = f"{started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    options = storage_options(corpus.storage_option)
    uri = table_uri(corpus.place(REFRESHES))
    flags = {"json": config.json, "wait": config.wait, "verbose": config.verbose}
    table = Table.open(uri, options)
    note = {**claim.identity(name), "command": "refresh"}
    stop = StopSignal()
    if config.dry_run:
        steps = Steps(name, started, corpus.steps, rows_of(table), options, stop, **flags)
        for step in corpus.steps:
            steps.preview(step)
        return RefreshSummary(name, time.monotonic() - began, steps.rows, None)
    table = table or create(uri, options, note)
    with claim.hold(table, note, wait=config.wait) as table, stop.watched():
        past = rows_of(table)
        steps = Steps(name, started, corpus.steps, past, options, stop, **flags)
        try:
            with claim.renew_by_uri(uri, options, note):
                for step in corpus.steps:
                    steps.do(step)
                _vacuum(corpus, options)
        except Stopped:
            record(uri, options, {**note, "state": "stopped"}, steps.rows)
            raise
        record(uri, options, {**note, "state": "done"}, steps.rows)
    if corpus.history:
        write_page([*past, *steps.rows], corpus.history, corpus.path.name)
    return RefreshSummary(name, time.monotonic() - began, steps.rows, corpus.history or None)


def _vacuum(corpus: Corpus, options: dict[str, str]) -> None:
    """Delete the files of table versions that are older than keep_days."""
    if corpus.keep_days is None:
        return
    hours = 24.0 * corpus.keep_days
    for step in corpus.steps:
        if not step.kind.makes_table or Table.open(table_uri(step.output), options) is None:
            continue
        asked = vacuum.VacuumConfig(step.output, corpus.storage_option, hours=hours, dry_run=True)
        if vacuum.run(asked).files:  # else each night would leave commits that say nothing
            with contextlib.suppress(claim.TableBusy):  # the next refresh will do it
                vacuum.run(vacuum.VacuumConfig(step.output, corpus.storage_option, hours=hours))
    mine = Table.open(table_uri(corpus.place(REFRESHES)), options)
    if mine is not None and vacuum_files(mine, hours, dry_run=True):
        vacuum_files(mine, hours, dry_run=False)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    config = parse(RefreshConfig, "refresh", __doc__, arguments)

    with user_errors(hides_noise=not config.verbose) as outcome:
        try:
            summary = run(config)
        except Stopped as stopped:
            print(f"embatch: {stopped}; run again to go on.", file=sys.stderr)
            return 128 + stopped.signum
        print(summary.as_json() if config.json else summary.text(), flush=True)
        outcome.exit_code = int(summary.failed)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
