"""What a run would store of a source's other columns, without a model and without a run."""

import numpy as np
import pyarrow as pa

from jobs.sync.due import due_by_piece, read_due
from jobs.sync.scan import gather, scan_piece
from schemas.columns import fit_columns, source_columns
from schemas.keys import KEYS
from schemas.plan import make_plan
from sources.rows import Source, number_files


def stored(source: Source, table: pa.Schema | None = None) -> pa.Table:
    """The id and the other columns of each row, as a new table would hold them, or `table` does."""
    pieces = number_files(source.pieces())
    scans = [scan_piece(source, index, piece) for index, piece in enumerate(pieces)]
    scan = gather(scans, pieces, all_listed=True)
    columns, _ = source_columns(scan.schemas)
    if table is not None:
        columns, _ = fit_columns(columns, table)
    nothing = np.zeros(0, KEYS)
    plan = make_plan(scan.keys, nothing, nothing, current_file=np.zeros(0, bool), defer=False)
    schema = pa.schema([pa.field("id", pa.string()), *columns.values()])
    due = [
        rows.select(schema.names)
        for piece, part in due_by_piece(plan.due, pieces)
        for rows in read_due(source, pieces[piece], part, [], columns)
    ]
    return pa.concat_tables([schema.empty_table(), *due])
