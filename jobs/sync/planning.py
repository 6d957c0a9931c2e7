"""Plan a run: read the keys of the source and compare them with those of the table."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from actors.engine.precision import HostedModel
from jobs.runtime.progress import Progress
from jobs.runtime.ray_cluster import Cluster
from jobs.sync.config import EmbedConfig
from jobs.sync.errors import SyncError
from jobs.sync.ledger import LEAST_TRIED, Ledger
from jobs.sync.scan import TableScan, gather, n_rows_of, scan_piece, scan_table
from jobs.sync.table import RunTable
from jobs.sync.workers import Work, scan_pieces
from schemas.delta.store import Table
from schemas.plan import NO_IDS, Plan, make_plan
from sources.rows import Source, number_files

DRIVER_BYTES = 256 << 20  # a source up to this size is scanned in the driver while Ray starts
SMALL_BYTES = 1 << 20
PRUNE_SHARE = 0.2  # a prune of more than this share of the table's ids asks first


class Planner:
    """Compares one source with one table, as often as a run needs it.

    Attributes:
        note: metadata of every commit (run, host, pid, model).
        fingerprint: model, space and recipe of the vectors that the run writes.
        table: opens, claims and finishes the table of the run.
        pieces: of the source, numbered.
        warnings: sentences for the user about the source and its rows.
    """

    def __init__(
        self,
        source: Source,
        model: HostedModel,
        config: EmbedConfig,
        run: str,
        cluster: Cluster,
        check: Callable[[], None],
        *,
        claims: bool = True,
    ) -> None:
        """List the source.

        Args:
            source: of the rows.
            model: embeds the rows.
            config: options of the run.
            run: id of the run.
            cluster: the Ray that reads a large source.
            check: called between two pieces of the source; may raise to end the run.
            claims: True if the run claims the table; else only the store's fence protects the table.
        """
        self.source, self.model, self.config = source, model, config
        self.cluster, self._check = cluster, check
        self.table = RunTable(config, source, model, run, claims=claims)
        self.note, self.fingerprint = self.table.note, self.table.fingerprint
        self.pieces = number_files(source.pieces())
        unlisted = source.unlisted()
        self.all_listed = not unlisted
        self.warnings = [f"{path} could not be listed: {reason}" for path, reason in unlisted]
        self.warnings += source.remarks()

    @property
    def is_large(self) -> bool:
        """True if Ray's tasks should read the source."""
        return sum(piece.size_bytes for piece in self.pieces) > DRIVER_BYTES

    @property
    def is_small(self) -> bool:
        """True if the source is read in no time, so that Ray need not start meanwhile."""
        return sum(piece.size_bytes for piece in self.pieces) < SMALL_BYTES

    def scan_source(self) -> Ledger:
        """Read the keys of all rows of the source, and begin the ledger with them."""
        limit = self.config.limit or None
        if self.is_large and limit is None:
            self.cluster.nodes()
            scans = scan_pieces(self.source, self.pieces)
        else:
            indexed = enumerate(self.pieces)
            scans = (scan_piece(self.source, index, piece) for index, piece in indexed)
        done: list[Mapping[str, Any]] = []
        n_rows = 0
        with Progress("read", len(self.pieces), "pieces", quiet=self.config.quiet) as progress:
            for scan in scans:
                done.append(scan)
                progress.add(1)
                self._check()
                n_rows += n_rows_of(scan)
                if limit is not None and n_rows >= limit:
                    break
        found = gather(done, self.pieces, all_listed=self.all_listed, limit=limit)
        if self.config.prune and not found.complete:
            self.warnings.append("nothing is pruned: a part of the source could not be read")
        return Ledger(
            found,
            self.pieces,
            source=self.note["source"],
            also_known_as=self.config.source,
            recipe=self.fingerprint.recipe,
            note=self.note,
        )

    def compare(
        self, table: Table | None, ledger: Ledger, *, defer: bool
    ) -> tuple[TableScan, Plan]:
        """Compare the source with the table.

        Args:
            table: None if there is none yet.
            ledger: has the keys of the source; takes each row's fate.
            defer: as in `make_plan`.

        Returns:
            The keys of the table, and the plan.
        """
        config, scan, passages = self.config, ledger.scan, bool(self.fingerprint.chunking)
        only_run = self.note["run"] if config.replace else None
        recipe = self.fingerprint.recipe
        table_scan = scan_table(table, recipe, passages=passages, only_run=only_run)
        only_seen = config.retry_failed or config.replace
        plan = make_plan(
            scan.keys,
            table_scan.keys,
            ledger.log.keys(recipe, only_seen=only_seen),
            current_file=table_scan.current_file,
            unreadable=NO_IDS if config.limit else scan.unreadable_ids,
            passages=passages,
            prune=config.prune and scan.complete,
            defer=defer,
        )
        if not ledger.is_planned:
            self.warnings += _remark_on_ids(scan.keys, table_scan.keys)
        ledger.plan(plan)
        return table_scan, plan

    def work(
        self, plan: Plan, table_scan: TableScan, columns: Mapping[str, pa.Field], schema: pa.Schema
    ) -> Work:
        """Collect the work for the workers.

        Args:
            plan: the due rows.
            table_scan: scan of the table that the plan was made for.
            columns: the source's columns with the table's fields for them.
            schema: of the files to write.
        """
        return Work(
            config=self.config,
            source=self.source,
            model=self.model,
            run=self.note["run"],
            pieces=self.pieces,
            due=plan.due,
            files=[file.name for file in table_scan.files],
            columns=columns,
            schema=schema,
        )

    def guard(self, plan: Plan, ledger: Ledger) -> None:
        """Refuse a plan that would empty the table, as after an empty mount or an unreadable source.

        Raises:
            SyncError: more than PRUNE_SHARE of the table's ids would go.
        """
        many = plan.withdrawn > PRUNE_SHARE * max(plan.n_ids_stored, LEAST_TRIED)
        if many and ledger.new_share > self.config.max_failures:
            reasons = Counter(row["reason"] for row in ledger.unreadable)
            why = "; ".join(f"{n:,}: {reason}" for reason, n in reasons.most_common(3))
            raise SyncError(
                f"{plan.withdrawn:,} of the {plan.n_ids_stored:,} rows of the table can no longer be "
                f"read from the source, and would leave it ({why}). Nothing was changed. Look at the "
                "source; if that is meant, add --max-failures 1."
            )
        if plan.deleted > PRUNE_SHARE * plan.n_ids_stored and not self.config.force_prune:
            raise SyncError(
                f"{plan.deleted:,} of the {plan.n_ids_stored:,} ids in the table are no longer in the "
                f"source, more than {PRUNE_SHARE:.0%}. If that is meant, add --prune --force-prune; "
                "else look at the source."
            )


def _remark_on_ids(source: np.ndarray, stored: np.ndarray) -> list[str]:
    """A warning if a table has rows of the source, but has all of them under other ids.

    Args:
        source: (n,) KEYS of the source.
        stored: (m,) KEYS of the table.
    """
    if np.isin(source["id"][:, 0], stored["id"][:, 0]).any():
        return []
    n_known = int(np.isin(source["content"][:, 0], stored["content"][:, 0]).sum())
    if not n_known:
        return []
    return [
        f"the table has the content of {n_known:,} of these rows under other ids, and none of their ids:"
        " such rows stand in it twice. Was the table made with another --id-column, or with none?"
    ]
