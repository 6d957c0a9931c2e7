"""The worker's whole job on a window of due rows: embed, build the table's rows, write them.

One instance lives in each worker process and hosts one encoder. Only a file's name, size and
counts go back to the driver, and the failures; vectors never travel. It needs no Ray:

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

from actors.engine.engine import Encoded, Engine, Items, TextEncoder, Work
from actors.engine.passages import passages
from actors.engine.precision import HostedModel, load_sound
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
    """Where a worker writes, and how.

    Attributes:
        uri: the table.
        schema: the table's schema, vectors of fixed size.
        run: the run's id, which the files' names carry.
        options: credentials for the object store.
        half: round vectors to float16.
        chunk_tokens, chunk_overlap: cut documents into passages; 0 leaves them whole.
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
        if threads is not None:
            pa.set_cpu_count(threads)
        self.model = model
        self.target = target
        self.device = device
        self.threads = threads
        self.precision = precision
        self.token_budget = token_budget
        self._lock = threading.Lock()  # of loading; windows may come from several threads
        self._engine: Engine | None = None
        self._remarks: list[str] = []
        self._canary: str | None = None

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Work a window.

        Args:
            rows: DUE_FIELDS, ITEM_FIELDS of what is embedded, then the source's other columns as the
                table holds them.

        Returns:
            REPORT, one row a group of the window; every due row is counted in one of them.

        Raises:
            OSError: the file could not be written (a full disk, say).
        """
        failed = rows["due:reason"].to_pylist()
        copied = rows["due:action"].to_numpy() == COPY
        healthy = np.array([reason is None for reason in failed], bool)
        parts, work = [], Work()
        indices = np.flatnonzero(healthy & ~copied)
        items = self._items(rows, indices)
        engine = self._loaded(items) if len(items) else None
        started = time.perf_counter()
        if engine is not None:
            part, errors, work = self._embedded(engine, items, indices)
            parts.append(part)
            for index, reason in errors.items():
                failed[index] = reason
        if (healthy & copied).any():
            parts.append(self._copied(rows, np.flatnonzero(healthy & copied)))
        reports = self._report(rows, failed, parts, work)
        seconds = pa.array([time.perf_counter() - started] * len(reports))
        return reports.set_column(reports.column_names.index("seconds"), "seconds", seconds)

    def _items(self, rows: pa.Table, indices: np.ndarray) -> Items:
        """What the encoder tokenises: texts, or (n, height, width, 3) uint8."""
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

    def _embedded(
        self, engine: Engine, items: Items, indices: np.ndarray
    ) -> tuple[pa.Table, dict[int, str], Work]:
        """New vectors: columns `row` (index of the item's row), n_tokens, …, embedding[, passage]."""
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
        return self._part(row_of, encoded, spans, kept), errors, encoded.work

    def _loaded(self, items: Items) -> Engine:
        """The engine; the first window waits for the model, and its rows check the precision."""
        with self._lock:
            if self._engine is None:
                fixed = FixedItems(self.model.name, self.model.preprocess)
                encoder, self._remarks = load_sound(
                    self.model, self.device, self.threads, self.precision, items, fixed.embed
                )
                self._remarks += fixed.remarks
                self._canary = fixed.canary
                self._engine = Engine(encoder, token_budget=self.token_budget)
            return self._engine

    def _passages(self, spans: np.ndarray) -> list[tuple[int, int]]:
        return passages(spans, self.target.chunk_tokens, self.target.chunk_overlap)

    def _part(
        self, row_of: np.ndarray, encoded: Encoded, spans: np.ndarray | None, kept: np.ndarray
    ) -> pa.Table:
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

    def _copied(self, rows: pa.Table, indices: np.ndarray) -> pa.Table:
        """Vectors that the table holds already, in the columns of `_part`; no model is loaded."""
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
                held = file.read(there).take(pa.array(wanted))
            for lacking in set(names) - set(there):  # tokens are counted of texts alone
                held = held.append_column(lacking, pa.nulls(len(held), COPIED_TYPES[lacking]))
            vectors = vector_column(vectors_of(held["embedding"]), half=self.target.half)
            held = held.set_column(held.column_names.index("embedding"), "embedding", vectors)
            row_of = pa.array(np.repeat(indices[mine], counts[mine]), pa.int64())
            parts.append(held.append_column("row", row_of).select(["row", *names]))
        return pa.concat_tables(parts)

    def _report(
        self,
        rows: pa.Table,
        failed: list[str | None],
        parts: list[pa.Table],
        work: Work,
    ) -> pa.Table:
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
            state["token_budget"] = self._engine.budget.chosen
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
                "n_computed": round(work.n_computed * float(mine.mean())),
                "n_unknown": round(work.n_unknown * float(mine.mean())),
                "busy_seconds": work.busy_seconds * float(mine.mean()),
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
        """Rows of the table: the source's columns beside the vectors made or copied for them."""
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
