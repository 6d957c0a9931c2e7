"""Arrow schemas of the messages between driver and workers: due rows go out, reports come back.

Vectors are never sent. A window of due rows has the columns DUE_FIELDS, those of ITEM_FIELDS for texts or
images, then the source's other columns with the table's types.
"""

import pyarrow as pa

from schemas.tables.embeddings import IMAGE_TYPE

FAILED = pa.struct(
    [
        ("id", pa.string()),
        ("content_hash", pa.string()),
        ("source_file", pa.string()),
        ("position", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("at", pa.uint64()),  # `schemas.plan.DUE`: index of the row among the source's keys
        ("planned_id", pa.uint64()),  # id of the row in the plan
    ]
)
REPORT = pa.schema(
    [
        ("group", pa.int32()),
        ("name", pa.string()),  # null where no row of the group could be embedded
        ("size_bytes", pa.int64()),
        ("n_rows", pa.int64()),
        ("n_due", pa.int64()),
        ("n_tokens", pa.int64()),
        ("n_truncated", pa.int64()),
        ("n_unknown", pa.int64()),  # words without a vector
        ("seconds", pa.float64()),  # of the whole window, without loading the model
        ("n_computed", pa.int64()),  # tokens, padding included
        ("busy_seconds", pa.float64()),
        ("precision", pa.string()),  # null where nothing was embedded
        ("token_budget", pa.int64()),
        ("remarks", pa.list_(pa.string())),
        ("canary", pa.string()),  # `schemas.canary`; null before a model is loaded
        ("failures", pa.list_(FAILED)),
    ]
)
PIXELS = "due:pixels"
ITEM_FIELDS = {
    "text": (pa.field("text", pa.string()),),
    # Pixels are the model's input, (height, width, 3) uint8; null where the row is not embedded.
    "image": (pa.field("image", IMAGE_TYPE), pa.field(PIXELS, pa.large_binary())),
}
DUE_FIELDS = (
    pa.field("id", pa.string()),
    pa.field("content_hash", pa.binary(16)),
    pa.field("row_hash", pa.uint64()),
    pa.field("due:at", pa.uint64()),
    pa.field("due:source_file", pa.string()),
    pa.field("due:position", pa.int64()),
    pa.field("due:action", pa.uint8()),
    pa.field("due:group", pa.int32()),
    pa.field("due:id", pa.uint64()),
    pa.field("due:from_file", pa.string()),
    pa.field("due:from_position", pa.uint32()),
    pa.field("due:from_count", pa.uint32()),
    pa.field("due:stage", pa.string()),  # with `reason`, where the row failed before it came here
    pa.field("due:reason", pa.string()),
)
