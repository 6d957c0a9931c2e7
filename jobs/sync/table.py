"""The table that a run writes to: opened and checked, claimed, made, and brought to its end."""

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa

from jobs.runtime.progress import Progress
from jobs.runtime.signals import StopSignal
from jobs.sync.config import EmbedConfig
from jobs.sync.errors import OtherSpace, SyncError
from jobs.sync.model import SyncModel, fingerprint_of
from schemas.columns import fit_columns, source_columns
from schemas.delta import claim
from schemas.delta.rewriting import compact
from schemas.delta.store import Table
from schemas.errors import without_secrets
from schemas.tables.embeddings import Fingerprint, is_of_words, table_schema, what_differs
from sources.rows import Source

CHECKPOINT_VERSIONS = 50


class RunTable:
    """What one run does to its table as a whole.

    Attributes:
        fingerprint: what the run's vectors will be.
        note: what every commit's metadata holds (run, host, pid, model).
    """

    def __init__(
        self, config: EmbedConfig, source: Source, model: SyncModel, run: str, *, claims: bool
    ) -> None:
        """Note who writes what.

        Args:
            config: of the run.
            source: of the rows.
            model: of the vectors.
            run: id of the run.
            claims: claim the table; without, the store's fence alone keeps it true.
        """
        self.config, self.claims = config, claims
        self.modality = source.options.modality
        self.fingerprint = fingerprint_of(model, config.chunking)
        self.note = {**claim.identity(run), "command": "embed", "model": model.name}
        is_here = os.path.exists(config.model)
        self.note["given_model"] = os.path.abspath(config.model) if is_here else config.model
        self.note["source"] = without_secrets(source.options.address)
        if config.word_weights:
            self.note["word_weights"] = os.path.abspath(config.word_weights)
        if model.templates:
            self.note["templates"] = list(model.templates)
        self.claimed_note = {**self.note, "state": "claim"}

    def open(self) -> Table | None:
        """The table, None where there is none yet.

        Raises:
            OtherSpace: it holds vectors of another model.
            SyncError: it holds something else.
        """
        table = Table.open(self.config.uri, self.config.store)
        if table is None:
            return None
        if is_of_words(table.schema):
            raise SyncError(
                f"Table {table.uri} holds the words of a model. Give another TABLE for rows of texts."
            )
        held = Fingerprint.of(table.schema)
        if held is None:
            raise SyncError(
                f"{table.uri} is a Delta table, but not one of embeddings. Give another TABLE."
            )
        _refuse_other_space(table, held, self.fingerprint)
        holds_images = "image" in table.schema.names
        if holds_images != (self.modality == "image"):
            there, given = ("images", "texts") if holds_images else ("texts", "images")
            raise SyncError(
                f"Table {table.uri} holds {there}, and SOURCE holds {given}. Give another TABLE."
            )
        return table

    def claim(self, table: Table | None) -> Table | None:
        """The table, one version on and claimed; see `schemas.delta.claim.take`."""
        if table is None or not self.claims:
            return table
        return claim.take(table, self.note, wait=self.config.wait)

    def kept(self, table: Table | None) -> AbstractContextManager[None]:
        """Keep the claim alive while something else than writing to the table takes long."""
        return claim.renew_by_handle(table if self.claims else None, self.note)

    def release(self, state: str) -> None:
        """Give the claim up after a run that ended early."""
        claim.release(self.config.uri, self.config.store, self.note, state)

    def prepare(
        self, table: Table | None, schemas: Iterable[pa.Schema]
    ) -> tuple[Table, dict[str, pa.Field], pa.Schema, list[str]]:
        """Make the table, or add the columns that it lacks.

        Args:
            table: None where there is none yet.
            schemas: the other columns of each piece of the source.

        Returns:
            The table; the source's columns as the table holds them; the schema of the files to
            write; what the user should know of columns that are renamed, changed or dropped.
        """
        columns, remarks = source_columns(schemas)
        if table is None:
            schema = table_schema(
                columns.values(),
                self.fingerprint,
                with_text=not self.config.no_text,
                modality=self.modality,
            )
            table = Table.create(self.config.uri, schema, self.claimed_note, self.config.store)
        columns, missing = fit_columns(columns, table.schema)
        if missing:
            table.add_columns(self.claimed_note, missing)
        if Fingerprint.of(table.schema) != self.fingerprint:
            table.describe(self.claimed_note, self.fingerprint.metadata())
        vector = self.fingerprint.field
        plain = [field.remove_metadata() for field in table.schema]
        schema = pa.schema([vector if f.name == vector.name else f for f in plain])
        return table, columns, schema, remarks

    def finish(self, table: Table, counts: Mapping[str, Any], stop: StopSignal) -> None:
        """Join small files, commit the run's counts, and write a checkpoint now and then."""
        with Progress("join", 0, "files", quiet=self.config.quiet) as progress:
            compact(table, self.note, stop.check, progress.reach)
        table.commit({**self.note, "state": "done", **counts})
        if table.version % CHECKPOINT_VERSIONS == 0:
            table.checkpoint()


def _refuse_other_space(table: Table, held: Fingerprint, mine: Fingerprint) -> None:
    rescue = "give another TABLE, or --replace to embed all its rows anew."
    if (held.space, held.dim) != (mine.space, mine.dim):
        if (held.model, held.dim) == (mine.model, mine.dim):
            raise OtherSpace(
                f"Table {table.uri} holds vectors of another {mine.model} ({mine.dim}):"
                f" {what_differs(held, mine)}. {rescue[0].upper()}{rescue[1:]}"
            )
        raise OtherSpace(
            f"Table {table.uri} holds vectors of {held.model} ({held.dim}), not {mine.model} "
            f"({mine.dim}). {rescue[0].upper()}{rescue[1:]}"
        )
    if bool(held.chunking) != bool(mine.chunking):
        what, way = ("passages", "with") if held.chunking else ("whole documents", "without")
        raise OtherSpace(f"Table {table.uri} holds {what}. Run {way} --chunk-tokens, {rescue}")
