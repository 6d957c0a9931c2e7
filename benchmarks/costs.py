"""Cost of a row without the model: bytes of its vector and text, time to read, write and tokenise it.

    python -m benchmarks.costs

Vectors are MiniLM's, texts German news, photos Flickr8k's. Times are processor time, the least of three
measurements: a busy machine changes it less than clock time. PREDICTED was written before the first
measurement. About two minutes on two cores; results go to `results/costs.jsonl`.
"""

import argparse
import io
import json
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpora import DATA, MODELS, SEED, corpus, model_folder
from benchmarks.record import append, processor_seconds

PREDICTED = {
    "vector_bytes_a_value": 3.4,
    "scan_document_us": 10.0,
    "scan_image_us": 30.0,
    "scan_table_us": 2.0,
    "rewrite_us": 25.0,
    "tokenize_us": 800.0,
}
CHANGED_EVERY = 100  # one row of so many is left out when a file is rewritten
EMBEDDED = 320  # rows; for so few, Ray is not started
ROWS = 8192


def measure_vectors(folder: Path) -> dict[str, float]:
    """Bytes in a table of news articles: of a vector's value, and of a row's text, keys and the rest."""
    from jobs.embed import run
    from jobs.runtime.native_stderr import hide_native_noise
    from jobs.sync.config import EmbedConfig

    texts = corpus("mixed", EMBEDDED)
    source, table = folder / "articles.jsonl", folder / "articles"
    lines = (json.dumps({"id": i, "text": text}) for i, text in enumerate(texts))
    source.write_text("\n".join(lines), encoding="utf-8")
    model = model_folder(MODELS[0], folder)
    with hide_native_noise():
        run(EmbedConfig(str(source), str(table), model, id_column="id", json=True))
    sizes: Counter[str] = Counter()
    for path in table.glob("*.parquet"):
        group = pq.read_metadata(path).row_group(0)
        for column in map(group.column, range(group.num_columns)):
            sizes[column.path_in_schema] += column.total_compressed_size
    dim = len(pq.read_table(path, columns=["embedding"])["embedding"][0])
    vectors, text = sizes.pop("embedding.list.element"), sizes.pop("text")
    keys = sum(sizes[name] for name in ("id", "content_hash", "row_hash"))
    return {
        "vector_bytes_a_value": vectors / EMBEDDED / dim,
        "text_bytes_a_row": text / EMBEDDED,
        "source_text_bytes_a_row": sum(len(t.encode()) for t in texts) / EMBEDDED,
        "key_bytes_a_row": keys / EMBEDDED,
        "other_bytes_a_row": sum(sizes.values()) / EMBEDDED - keys / EMBEDDED,
    }


def measure_rows(folder: Path) -> dict[str, float]:
    """Processor time a row of each step of a run but the model, in µs: the least of three measurements."""
    from actors.checkpoints import resolve
    from jobs.sync.scan import scan_piece, scan_table
    from schemas.delta.fragments import new_name, write_rows
    from schemas.delta.store import Table
    from schemas.keys import KEYS, hex_of
    from schemas.tables.embeddings import Fingerprint, table_schema
    from schemas.vectors import vector_column
    from sources import open_source
    from sources.rows import SourceOptions

    chance = np.random.default_rng(SEED)
    ids, texts = [f"document-{i:09}" for i in range(ROWS)], corpus("mixed", ROWS)
    pq.write_table(pa.table({"id": ids, "text": texts}), folder / "s.parquet", compression="zstd")
    source = open_source(SourceOptions(str(folder / "s.parquet"), ("text",), id_column="id"))
    photos = photo_source(folder / "photos.tar")

    fingerprint = Fingerprint("m", 384, "s", "r")
    vectors = chance.standard_normal((ROWS, 384), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = chance.integers(0, 2**63, (ROWS, 3), np.uint64)
    columns = {"id": ids, "text": texts, "embedding": vector_column(vectors)}
    columns |= {"content_hash": hex_of(keys[:, :2]), "row_hash": hex_of(keys[:, 2])}
    schema = table_schema([], fingerprint)
    arrays = [columns.get(f.name, pa.nulls(ROWS, f.type)) for f in schema]
    table = Table.create(str(folder / "rows"), schema, {"run": "r"})
    rows = pa.table(arrays, schema=schema)
    file = write_rows(table.filesystem, new_name("r", "00000"), rows)
    table.commit({"run": "r"}, add=[file])
    kept = pa.array(np.arange(ROWS) % CHANGED_EVERY != 0)

    def rewrite() -> None:
        read = table.read_file(file.name).filter(kept)
        write_rows(table.filesystem, new_name("r", "kept"), read)

    tokenizer = resolve(model_folder(MODELS[0], folder)).load("cpu", 1, "fp32")
    few = texts[:EMBEDDED]
    pieces, tars = source.pieces(), photos.pieces()
    n_photos = len(scan_piece(photos, 0, tars[0])["keys"]) // KEYS.itemsize
    steps = {
        "scan_document_us": (ROWS, lambda: [scan_piece(source, 0, piece) for piece in pieces]),
        "scan_image_us": (n_photos, lambda: scan_piece(photos, 0, tars[0])),
        "scan_table_us": (ROWS, lambda: scan_table(table, "r", passages=False)),
        "rewrite_us": (ROWS, rewrite),
        "tokenize_us": (EMBEDDED, lambda: tokenizer.tokenize(few)),
    }
    found = {}
    for name, (n, work) in steps.items():
        found[name] = min(processor_seconds(work, 1) for _ in range(3)) * 1e6 / n
    return found | {"image_bytes": tars[0].size_bytes / n_photos}


def photo_source(path: Path) -> Any:  # noqa: ANN401
    """Source that reads the photos of Flickr8k from one WebDataset tar, which is written to `path`."""
    from sources import open_source
    from sources.rows import SourceOptions

    with (
        zipfile.ZipFile(DATA / "flickr8k_1000" / "images.zip") as photos,
        tarfile.open(path, "w") as tar,
    ):
        for name in photos.namelist():
            data = photos.read(name)
            member = tarfile.TarInfo(Path(name).name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return open_source(SourceOptions(str(path)))


def main() -> int:
    """Measure, print the result and append it to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure_vectors(Path(folder)) | measure_rows(Path(folder))
    found = {name: round(value, 3) for name, value in found.items()}
    append("costs", {"predicted": PREDICTED, "measured": found})
    print(json.dumps(found, indent=None if arguments.json else 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
