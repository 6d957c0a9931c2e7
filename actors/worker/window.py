"""The worker's whole job on a window of due rows: embed them, build rows of the table, write a file.

Each worker process has one `EmbedWindow`, which holds one encoder. Only a file's name, size and counts, and
the failures, go back to the driver; vectors are never sent. No Ray is needed:

    window = EmbedWindow(model, Target("tables/articles", schema, run="r1"))
    reports = window(rows)
"""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.engine.engine import Encoded, Engine, Items, TextEncoder, Usage
from actors.engine.passages import passages
from actors.engine.precision import HostedModel, load_with_precision
from actors.engine.templates import encode_classes
from actors.worker.canary import FixedItems
from actors.worker.exchange import PIXELS, REPORT
from schemas.cells import cast_column
from schemas.delta.fragments import new_name, write_rows
from schemas.delta.places import filesystem
from schemas.keys import from_binary, hex_of
from schemas.plan import COPY
from schemas.vectors import vector_column, vectors_of

COPIED_TYPES = {"n_tokens": pa.int32(), "truncated": pa.bool_()}


@dataclass(frozen=True)
class Target:
    """Table that a worker writes to, and the form of its rows.

    Attributes:
        uri: Path or address of the table.
        schema: Schema of the table, with vectors of fixed size.
        run: Id of the run; names of files contain it.
        options: Credentials for the object store.
        half: True to round vectors to float16.
        chunk_tokens: Number of tokens of a passage; 0 leaves documents whole.
        chunk_overlap: Number of tokens that neighbouring passages share.
    """

    uri: str
    schema: pa.Schema
    run: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    half: bool = False
    chunk_tokens: int = 0
    chunk_overlap: int = 0


class EmbedWindow:
    """Embeds windows of due rows and writes them as files of the table."""

    def __init__(
        self,
        model: HostedModel,
        target: Target,
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: str = "fp32",
        token_budget: int = 0,
    ) -> None:
        """Remember what to load; the first window loads the model.

        Args:
            model: Model to load.
            target: Table to write to, and the form of its rows.
            device: Name of the device, in torch's words.
            threads: Number of cores for the encoder and Arrow; None takes all of the machine.
            precision: One of `actors.engine.precision.PRECISIONS`.
            token_budget: Tokens of a micro-batch; 0 tries several budgets and keeps the fastest.
        """
        if threads is not None:
            pa.set_cpu_count(threads)
        self.model = model
        self.target = target
        self.device = device
        self.threads = threads
        self.precision = precision
        self.token_budget = token_budget
        self._lock = threading.Lock()  # held while the model is loaded: several threads may call
        self._engine: Engine | None = None
        self._remarks: list[str] = []
        self._canary: str | None = None

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Embed the rows of a window and write them as files of the table.

        Args:
            rows: Columns DUE_FIELDS, those of ITEM_FIELDS for texts or images, then the source's other
                columns with the table's types.

        Returns:
            A table with the schema REPORT and one row for each group of table files in the window; each
            due row is counted in exactly one of its rows.

        Raises:
            OSError: A file could not be written (the disk is full, for example).
        """
        failed = rows["due:reason"].to_pylist()
        copied = rows["due:action"].to_numpy() == COPY
        healthy = np.array([reason is None for reason in failed], bool)
        parts, usage = [], Usage()
        indices = np.flatnonzero(healthy & ~copied)
        items = self._items(rows, indices)
        engine = self._load_engine(items) if len(items) else None
        started = time.perf_counter()
        if engine is not None:
            part, errors, usage = self._embed(engine, items, indices)
            parts.append(part)
            for index, reason in errors.items():
                failed[index] = reason
        if (healthy & copied).any():
            parts.append(self._copy_vectors(rows, np.flatnonzero(healthy & copied)))
        reports = self._write_and_report(rows, failed, parts, usage)
        seconds = pa.array([time.perf_counter() - started] * len(reports))
        return reports.set_column(reports.column_names.index("seconds"), "seconds", seconds)

    def _items(self, rows: pa.Table, indices: np.ndarray) -> Items:
        """Texts, or images (k, height, width, 3) uint8, of the rows at some indices, (k,) int64."""
        wanted = pa.array(indices)
        if self.model.preprocess is None:
            texts: list[str] = rows["text"].take(wanted).to_pylist()
            return texts
        shape = (len(indices), *self.model.preprocess.shape)
        pixels = (
            rows[PIXELS].combine_chunks().take(wanted)
        )  # without nulls, so they lie side by side
        values = pixels.buffers()[-1]
        return np.frombuffer(values or b"", np.uint8, count=math.prod(shape)).reshape(shape)

    def _embed(
        self, engine: Engine, items: Items, indices: np.ndarray
    ) -> tuple[pa.Table, dict[int, str], Usage]:
        """Embed items.

        Args:
            engine: Engine with the model.
            items: k texts or images.
            indices: (k,) int64, the window's row of each item.

        Returns:
            The table of `_vector_table`, without rows that failed; the reason of each failed row, by its
            index in the window; tokens and seconds that it took.
        """
        row_of, spans = indices, None
        errors: dict[int, str] = {}
        if self.target.chunk_tokens:
            spans_of = cast(TextEncoder, engine.encoder).spans
            cuts = [self._passages(spans_of(text)) or [(0, len(text))] for text in items]
            row_of = np.repeat(indices, [len(cut) for cut in cuts])
            spans = np.array([span for cut in cuts for span in cut], np.int64).reshape(-1, 2)
            items = [text[a:b] for text, cut in zip(items, cuts, strict=True) for a, b in cut]
        if self.model.templates:
            encoded = encode_classes(engine, list(items), unit=self.model.unit)
        else:
            encoded = engine.encode(items)
        for at, reason in encoded.errors.items():
            errors.setdefault(int(row_of[at]), reason)
        kept = ~np.isin(row_of, list(errors))
        return self._vector_table(row_of, encoded, spans, kept), errors, encoded.usage

    def _load_engine(self, items: Items) -> Engine:
        """The engine; the first call loads the model, and checks its precision with these items."""
        with self._lock:
            if self._engine is None:
                fixed = FixedItems(self.model.name, self.model.preprocess)
                encoder, self._remarks = load_with_precision(
                    self.model, self.device, self.threads, self.precision, items, fixed.embed
                )
                self._remarks += fixed.remarks
                self._canary = fixed.canary
                self._engine = Engine(encoder, token_budget=self.token_budget)
            return self._engine

    def _passages(self, spans: np.ndarray) -> list[tuple[int, int]]:
        return passages(spans, self.target.chunk_tokens, self.target.chunk_overlap)

    def _vector_table(
        self, row_of: np.ndarray, encoded: Encoded, spans: np.ndarray | None, kept: np.ndarray
    ) -> pa.Table:
        """Table of new vectors, with the window's row of each in the column `row`.

        Args:
            row_of: (n,) int64, the window's row of each vector.
            encoded: n vectors with their tokens.
            spans: (n, 2) int64, character ranges of passages; None where documents are whole.
            kept: (n,) bool, vectors that become rows of the table.
        """
        columns: dict[str, Any] = {
            "row": pa.array(row_of[kept], pa.int64()),
            "n_tokens": pa.array(encoded.n_tokens[kept], pa.int32()),
            "truncated": pa.array(encoded.truncated[kept], pa.bool_()),
            "embedding": vector_column(encoded.vectors[kept], half=self.target.half),
            "embedded_at": pa.array(
                [datetime.now(UTC)] * int(kept.sum()), pa.timestamp("us", tz="UTC")
            ),
        }
        if spans is not None:
            first = np.concatenate(([True], row_of[1:] != row_of[:-1]))
            starts = np.flatnonzero(first)
            order = np.arange(len(row_of)) - np.repeat(
                starts, np.diff(np.append(starts, len(row_of)))
            )
            columns["chunk"] = pa.array(order[kept], pa.int32())
            columns["start"] = pa.array(spans[kept, 0], pa.int64())
            columns["end"] = pa.array(spans[kept, 1], pa.int64())
        return pa.table(columns)

    def _copy_vectors(self, rows: pa.Table, indices: np.ndarray) -> pa.Table:
        """Vectors that the table already holds, read from its files into columns like `_vector_table`'s."""
        names = ["n_tokens", "truncated", "embedding", "embedded_at"]
        names += ["chunk", "start", "end"] if self.target.chunk_tokens else []
        files = np.array(rows["due:from_file"].take(pa.array(indices)).to_pylist())
        counts = rows["due:from_count"].to_numpy()[indices].astype(np.int64)
        starts = rows["due:from_position"].to_numpy()[indices].astype(np.int64)
        fs = filesystem(self.target.uri, self.target.options)
        parts = []
        for name in np.unique(files):
            mine = files == name
            wanted = np.concatenate(
                [np.arange(s, s + c) for s, c in zip(starts[mine], counts[mine], strict=True)]
            )
            with fs.open_input_file(str(name)) as source:
                file = pq.ParquetFile(source)
                there = [name for name in names if name in file.schema_arrow.names]
                stored = file.read(there).take(pa.array(wanted))
            for lacking in set(names) - set(there):  # tokens are counted of texts alone
                stored = stored.append_column(lacking, pa.nulls(len(stored), COPIED_TYPES[lacking]))
            vectors = vector_column(vectors_of(stored["embedding"]), half=self.target.half)
            stored = stored.set_column(stored.column_names.index("embedding"), "embedding", vectors)
            row_of = pa.array(np.repeat(indices[mine], counts[mine]), pa.int64())
            parts.append(stored.append_column("row", row_of).select(["row", *names]))
        return pa.concat_tables(parts)

    def _write_and_report(
        self,
        rows: pa.Table,
        failed: list[str | None],
        parts: list[pa.Table],
        usage: Usage,
    ) -> pa.Table:
        """Write a file for each group of the window, and report counts and failures.

        Args:
            rows: The window.
            failed: Reason of each row of the window that failed, None for the others.
            parts: Tables like `_vector_table`'s, of new and of copied vectors.
            usage: Tokens and seconds of the whole window; groups share them by their number of rows.
        """
        groups = rows["due:group"].to_numpy()
        bad = np.array([reason is not None for reason in failed], bool)
        made = (
            pa.concat_tables(part.select(parts[0].column_names) for part in parts)
            if parts
            else None
        )
        state: dict[str, Any] = {"remarks": self._remarks}
        if self._engine is not None:
            state["precision"] = self._engine.encoder.setup.precision
            state["token_budget"] = self._engine.budget.best
        reports: list[dict[str, Any]] = []
        for group in np.unique(groups):
            mine = groups == group
            report: dict[str, Any] = {
                "group": int(group),
                "n_due": int(mine.sum()),
                "n_rows": 0,
                "n_tokens": 0,
                "n_truncated": 0,
                "canary": None if reports else self._canary,
                "n_computed": round(usage.n_computed * float(mine.mean())),
                "n_unknown": round(usage.n_unknown * float(mine.mean())),
                "busy_seconds": usage.busy_seconds * float(mine.mean()),
                "failures": [
                    self._failure(rows, int(i), str(failed[i])) for i in np.flatnonzero(mine & bad)
                ],
            } | state
            if (
                made is not None
                and (part := made.filter(pa.array(mine[made["row"].to_numpy()]))).num_rows
            ):
                table = self._rows(rows, part)
                name = new_name(self.target.run, f"{int(group):05d}")
                fragment = write_rows(filesystem(self.target.uri, self.target.options), name, table)
                report |= {
                    "name": name,
                    "size_bytes": fragment.size_bytes,
                    "n_rows": fragment.n_rows,
                    "n_tokens": int(np.nansum(part["n_tokens"].to_numpy(zero_copy_only=False))),
                    "n_truncated": int(pc.sum(part["truncated"], min_count=0).as_py()),
                }
            reports.append(report)
        return pa.Table.from_pylist(reports, REPORT)

    def _failure(self, rows: pa.Table, index: int, reason: str) -> dict[str, Any]:
        content = rows["content_hash"][index].as_py()
        return {
            "id": rows["id"][index].as_py(),
            "content_hash": content.hex() if content else None,
            "source_file": rows["due:source_file"][index].as_py(),
            "position": rows["due:position"][index].as_py(),
            "stage": rows["due:stage"][index].as_py() or "embed",
            "reason": reason,
            "at": rows["due:at"][index].as_py(),
            "planned_id": rows["due:id"][index].as_py(),
        }

    def _rows(self, rows: pa.Table, part: pa.Table) -> pa.Table:
        """Rows of the table: columns of the source, joined with new or copied vectors."""
        source = rows.take(part["row"])
        columns: dict[str, Any] = {name: part[name] for name in part.column_names if name != "row"}
        columns["content_hash"] = hex_of(from_binary(source["content_hash"]))
        columns["row_hash"] = hex_of(source["row_hash"].to_numpy())
        if "text" in source.column_names:
            columns["text"] = source["text"]
        if self.target.chunk_tokens:
            columns["parent_id"] = source["id"]
            ids = zip(source["id"].to_pylist(), part["chunk"].to_pylist(), strict=True)
            columns["id"] = pa.array([f"{parent}#{chunk}" for parent, chunk in ids], pa.string())
            cuts = zip(
                source["text"].to_pylist(),
                part["start"].to_pylist(),
                part["end"].to_pylist(),
                strict=True,
            )
            columns["text"] = pa.array([text[a:b] for text, a, b in cuts], pa.string())
        arrays = []
        for column in self.target.schema:
            values = columns.get(column.name)
            if values is None:
                known = column.name in source.column_names
                values = source[column.name] if known else pa.nulls(len(part), column.type)
            arrays.append(cast_column(values, column.type))
        return pa.table(arrays, schema=self.target.schema)
