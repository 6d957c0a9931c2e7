"""What a run will do: the table opened and checked, the source read, the two compared."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from actors.engine.precision import HostedModel
from jobs.runtime.progress import Progress
from jobs.runtime.ray_cluster import Cluster
from jobs.runtime.signals import StopSignal
from jobs.sync.ledger import LEAST_TRIED, Ledger
from jobs.sync.scan import SourceScan, TableScan, gather, scan_piece, scan_table
from jobs.sync.workers import scan_pieces
from schemas.columns import fitted
from schemas.delta import claim
from schemas.delta.places import in_store
from schemas.delta.store import Table
from schemas.errors import UsageError, UserError
from schemas.keys import KEYS
from schemas.plan import NO_IDS, Plan, make_plan
from schemas.tables.embeddings import Fingerprint, is_of_words, what_differs
from schemas.tables.failures import FailureLog
from sources.rows import Source, numbered

DRIVER_BYTES = 256 << 20  # a source up to this size is scanned in the driver while Ray starts
SMALL_BYTES = 1 << 20
PRUNE_SHARE = 0.2  # a prune of more than this share of the table's ids asks first


class SyncError(UserError):
    """A run that ends without having done its work; the message says why and what to do."""


class OtherSpace(SyncError):
    """The table holds vectors of another model, or cut otherwise; the message says which."""


class SyncModel(HostedModel, Protocol):
    """What a sync needs to know of a model; `actors.checkpoints.Model` is one."""

    @property
    def space(self) -> str:
        """Vectors of one space may be compared."""

    @property
    def size_bytes(self) -> int:
        """Of the weights."""

    @property
    def recipe(self) -> str:
        """Another recipe makes every row due."""

    @property
    def ingredients(self) -> dict[str, Any]:
        """What went into space and recipe, as JSON, to say what differs."""

    @property
    def logit_scale(self) -> float | None:
        """What cosines are multiplied by before a softmax; None where training had none."""


@dataclass(frozen=True)
class SyncOptions:
    """What a sync may do; see the options of `embatch embed`."""

    table: str
    source_name: str
    given_source: str
    given_model: str
    word_weights: str
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    prune: bool = False
    force_prune: bool = False
    replace: bool = False
    retry_failed: bool = False
    max_failures: float = 0.1
    limit: int | None = None
    with_text: bool = True
    keep_images: bool = False
    half: bool = False
    chunk_tokens: int = 0
    chunk_overlap: int = 0
    device: str = "auto"
    actors: int | None = None
    wait: bool = False
    quiet: bool = False
    shared_filesystem: bool = False
    precision: str = "auto"
    token_budget: int = 0
    wave_seconds: float = 30.0
    claims: bool = True


class Planner:
    """Compares one source with one table, as often as a run needs it.

    Attributes:
        fingerprint: what the vectors will be.
        pieces: of the source, numbered.
        warnings: what the user should know of it.
    """

    def __init__(
        self,
        source: Source,
        model: SyncModel,
        options: SyncOptions,
        note: Mapping[str, Any],
        cluster: Cluster,
        stop: StopSignal,
    ) -> None:
        self.source, self.options, self.note = source, options, note
        self.cluster, self.stop = cluster, stop
        self.fingerprint = fingerprint_of(model, options)
        self.pieces = numbered(source.pieces())
        unlisted = source.unlisted()
        self.all_listed = not unlisted
        self.warnings = [f"{path} could not be listed: {reason}" for path, reason in unlisted]
        self.warnings += source.remarks()

    def open_table(self) -> Table | None:
        """The table, None where there is none yet.

        Raises:
            SyncError: it holds something else, or vectors of another model.
        """
        table = Table.open(self.options.table, self.options.storage_options)
        if table is not None:
            if is_of_words(table.schema):
                raise SyncError(
                    f"Table {table.uri} holds the words of a model. Give another TABLE for rows of texts."
                )
            _refuse_other_space(table, self.fingerprint, replace=self.options.replace)
            holds_images = "image" in table.schema.names
            if holds_images != (self.source.options.modality == "image"):
                held, given = ("images", "texts") if holds_images else ("texts", "images")
                raise SyncError(
                    f"Table {table.uri} holds {held}, and SOURCE holds {given}. Give another TABLE."
                )
        return table

    def claim_table(self, table: Table | None) -> Table | None:
        """The table, one version on and claimed; see `schemas.delta.claim.take`."""
        if table is None or not self.options.claims:
            return table
        return claim.take(table, self.note, wait=self.options.wait)

    def rebuilds(self, table: Table) -> bool:
        """Whether the table must change as a whole, since no row of it can stay."""
        held = Fingerprint.of(table.schema)
        return held is None or held.comparable != self.fingerprint.comparable

    @property
    def is_large(self) -> bool:
        """Whether Ray's tasks should read the source."""
        return sum(piece.size_bytes for piece in self.pieces) > DRIVER_BYTES

    @property
    def is_small(self) -> bool:
        """Whether reading the source takes no time, so that Ray need not start meanwhile."""
        return sum(piece.size_bytes for piece in self.pieces) < SMALL_BYTES

    def nodes(self) -> list[dict[str, float]]:
        """Resources of the machines; refuses a table that only one of them would see."""
        nodes = self.cluster.nodes()
        if (
            len(nodes) > 1
            and "://" not in self.options.table
            and not self.options.shared_filesystem
        ):
            raise SyncError(
                f"TABLE {self.options.table} is a local path, and this Ray cluster has {len(nodes)} "
                "nodes. Give a URI such as s3://bucket/table, or --shared-filesystem if all nodes "
                "see that path."
            )
        return nodes

    def scan_source(self) -> SourceScan:
        """Read the source once for its keys."""
        limit = self.options.limit
        if self.is_large and limit is None:
            self.cluster.nodes()
            scans = scan_pieces(self.source, self.pieces)
        else:
            indexed = enumerate(self.pieces)
            scans = (scan_piece(self.source, index, piece) for index, piece in indexed)
        done: list[Mapping[str, Any]] = []
        n_rows = 0
        with Progress("read", len(self.pieces), "pieces", quiet=self.options.quiet) as progress:
            for scan in scans:
                done.append(scan)
                progress.add(1)
                self.stop.check()
                n_rows += len(scan["keys"]) // KEYS.itemsize
                if limit is not None and n_rows >= limit:
                    break
        found = gather(done, self.pieces, all_listed=self.all_listed, limit=limit)
        if self.options.prune and not found.complete:
            self.warnings.append("nothing is pruned: a part of the source could not be read")
        return found

    def compare(
        self, table: Table | None, scan: SourceScan, log: FailureLog, *, defer: bool
    ) -> tuple[TableScan, Plan]:
        """What the table holds, and what is due; `defer` as in `make_plan`."""
        options, passages = self.options, bool(self.fingerprint.chunking)
        if table is not None and self.rebuilds(table):
            table = None
        only_run = self.note["run"] if options.replace else None
        held = scan_table(table, self.fingerprint.recipe, passages=passages, only_run=only_run)
        plan = make_plan(
            scan.keys,
            held.keys,
            log.keys(self.fingerprint.recipe, only_seen=options.retry_failed or options.replace),
            current_file=held.current_file,
            unreadable=NO_IDS if options.limit else scan.unreadable_ids,
            passages=passages,
            prune=options.prune and scan.complete,
            defer=defer,
        )
        return held, plan

    def guard(self, table: Table, scan: SourceScan, plan: Plan, ledger: Ledger) -> int:
        """Stop before an empty mount, or a source that cannot be read any more, empties a table.

        Returns:
            How many ids a table that is rebuilt will lose, since the source lacks them.

        Raises:
            SyncError: more than PRUNE_SHARE of the table's ids would go.
        """
        many = plan.withdrawn > PRUNE_SHARE * max(plan.n_ids_stored, LEAST_TRIED)
        if many and ledger.new_share > self.options.max_failures:
            reasons = Counter(row["reason"] for row in ledger.unreadable)
            why = "; ".join(f"{n:,}: {reason}" for reason, n in reasons.most_common(3))
            raise SyncError(
                f"{plan.withdrawn:,} of the {plan.n_ids_stored:,} rows of the table can no longer be "
                f"read from the source, and would leave it ({why}). Nothing was changed. Look at the "
                "source; if that is meant, add --max-failures 1."
            )
        n_held, n_gone = plan.n_ids_stored, plan.deleted
        rebuilds = self.rebuilds(table)
        if rebuilds:
            passages = "parent_id" in table.schema.names
            ids = np.unique(scan_table(table, "", passages=passages).keys["id"], axis=0)
            n_held = len(ids)
            n_gone = n_held - int(np.isin(ids[:, 0], scan.keys["id"][:, 0]).sum())
        if n_gone > PRUNE_SHARE * n_held and not self.options.force_prune:
            raise SyncError(
                f"{n_gone:,} of the {n_held:,} ids in the table are no longer in the source, more "
                f"than {PRUNE_SHARE:.0%}. If that is meant, add --prune --force-prune; else look at "
                "the source."
            )
        return n_gone if rebuilds else 0

    def fit(
        self, table: Table, columns: dict[str, pa.Field]
    ) -> tuple[dict[str, pa.Field], pa.Schema]:
        """The source's columns as the table holds them, and the schema of the files to write."""
        columns, missing = fitted(columns, table.schema)
        claimed = {**self.note, "state": "claim"}
        if missing:
            table.add_columns(claimed, missing)
        if Fingerprint.of(table.schema) != self.fingerprint:
            table.describe(claimed, self.fingerprint.metadata())
        vector = self.fingerprint.field
        plain = [field.remove_metadata() for field in table.schema]
        return columns, pa.schema([vector if f.name == vector.name else f for f in plain])


def _refuse_other_space(table: Table, mine: Fingerprint, *, replace: bool) -> None:
    held = Fingerprint.of(table.schema)
    if held is None:
        raise SyncError(
            f"{table.uri} is a Delta table, but not one of embeddings. Give another TABLE."
        )
    if replace:
        return
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


def refuse_nesting(source: str, table: str) -> None:
    """A table inside its source's folder would become its own source the next night."""
    if in_store(table) and f"{table}/".startswith(f"{source.rstrip('/')}/"):
        raise UsageError(
            f"TABLE {table} lies inside SOURCE {source}, and would be read as a part of it. Move it out."
        )
    if "://" in source or "://" in table or not os.path.isdir(source):
        return
    folder, inner = Path(source).resolve(), Path(table).resolve()
    if inner == folder or folder in inner.parents:
        raise UsageError(
            f"TABLE {table} lies inside SOURCE {source}, and would be read as a part of it. Move it out."
        )


def fingerprint_of(model: SyncModel, options: SyncOptions) -> Fingerprint:
    """What a run with these options writes."""
    chunking = f"{options.chunk_tokens}/{options.chunk_overlap}" if options.chunk_tokens else ""
    recipe = f"{model.recipe}-{chunking.replace('/', '-')}" if chunking else model.recipe
    return Fingerprint(
        model=model.name,
        dim=model.dim,
        space=model.space,
        recipe=recipe,
        unit=model.unit,
        chunking=chunking,
        logit_scale=model.logit_scale,
        ingredients=model.ingredients,
    )
