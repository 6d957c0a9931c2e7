"""Open, check, claim, create and finish the table that a run writes to."""

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa

from actors.engine.precision import HostedModel
from jobs.runtime.progress import Progress
from jobs.runtime.signals import StopSignal
from jobs.sync.config import EmbedConfig
from jobs.sync.errors import OtherSpace, SyncError
from schemas.columns import fit_columns, source_columns
from schemas.delta import claim
from schemas.delta.rewriting import compact
from schemas.delta.store import Table
from schemas.errors import without_secrets
from schemas.tables.embeddings import Fingerprint, is_of_words, table_schema, what_differs
from sources.rows import Source

CHECKPOINT_VERSIONS = 50


class RunTable:
    """The table of one run.

    Attributes:
        fingerprint: model, space and recipe of the vectors that the run writes.
        note: metadata of every commit (run, host, pid, model).
    """

    def __init__(
        self, config: EmbedConfig, source: Source, model: HostedModel, run: str, *, claims: bool
    ) -> None:
        """Prepare the metadata of the run's commits.

        Args:
            config: of the run.
            source: of the rows.
            model: of the vectors.
            run: id of the run.
            claims: True if the run claims the table; else only the store's fence protects the table.
        """
        self.config, self.claims = config, claims
        self.modality = source.options.modality
        self.fingerprint = Fingerprint.of_model(model, config.chunking)
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
        """Open the table and check it; None if there is none yet.

        Raises:
            OtherSpace: the table holds vectors of another model.
            SyncError: the table holds something else.
        """
        table = Table.open(self.config.uri, self.config.store)
        if table is None:
            return None
        if is_of_words(table.schema):
            raise SyncError(
                f"Table {table.uri} holds the words of a model. Give another TABLE for rows of texts."
            )
        fingerprint = Fingerprint.of(table.schema)
        if fingerprint is None:
            raise SyncError(
                f"{table.uri} is a Delta table, but not one of embeddings. Give another TABLE."
            )
        _refuse_other_space(table, fingerprint, self.fingerprint)
        holds_images = "image" in table.schema.names
        if holds_images != (self.modality == "image"):
            there, given = ("images", "texts") if holds_images else ("texts", "images")
            raise SyncError(
                f"Table {table.uri} holds {there}, and SOURCE holds {given}. Give another TABLE."
            )
        return table

    def claim(self, table: Table | None) -> Table | None:
        """Claim the table and return its new version; see `schemas.delta.claim.take`."""
        if table is None or not self.claims:
            return table
        return claim.take(table, self.note, wait=self.config.wait)

    def keep_claim(self, table: Table | None) -> AbstractContextManager[None]:
        """Renew the claim in the background, while work takes long that does not commit."""
        return claim.renew_by_handle(table if self.claims else None, self.note)

    def release(self, state: str) -> None:
        """Give up the claim after a run that ended early."""
        claim.release(self.config.uri, self.config.store, self.note, state)

    def prepare(
        self, table: Table | None, schemas: Iterable[pa.Schema]
    ) -> tuple[Table, dict[str, pa.Field], pa.Schema, list[str]]:
        """Create the table, or add the columns that it lacks.

        Args:
            table: None if there is none yet.
            schemas: of the other columns of each piece of the source.

        Returns:
            The table; the source's columns with the table's fields for them; the schema of the files to
            write; sentences for the user about columns that are renamed, changed or dropped.
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
        """Join small files, commit the run's counts, and write a checkpoint every CHECKPOINT_VERSIONS versions."""
        with Progress("join", 0, "files", quiet=self.config.quiet) as progress:
            compact(table, self.note, stop.check, progress.reach)
        table.commit({**self.note, "state": "done", **counts})
        if table.version % CHECKPOINT_VERSIONS == 0:
            table.checkpoint()


def _refuse_other_space(table: Table, old: Fingerprint, new: Fingerprint) -> None:
    """Raise OtherSpace if vectors of two fingerprints cannot lie in one table."""
    rescue = "give another TABLE, or --replace to embed all its rows anew."
    if (old.space, old.dim) != (new.space, new.dim):
        if (old.model, old.dim) == (new.model, new.dim):
            raise OtherSpace(
                f"Table {table.uri} holds vectors of another {new.model} ({new.dim}):"
                f" {what_differs(old, new)}. {rescue[0].upper()}{rescue[1:]}"
            )
        raise OtherSpace(
            f"Table {table.uri} holds vectors of {old.model} ({old.dim}), not {new.model} "
            f"({new.dim}). {rescue[0].upper()}{rescue[1:]}"
        )
    if bool(old.chunking) != bool(new.chunking):
        what, way = ("passages", "with") if old.chunking else ("whole documents", "without")
        raise OtherSpace(f"Table {table.uri} holds {what}. Run {way} --chunk-tokens, {rescue}")
