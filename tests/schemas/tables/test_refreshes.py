from datetime import UTC, datetime

import pyarrow as pa

from schemas.tables.refreshes import SCHEMA, StepRow


def test_a_step_comes_back_from_its_row():
    plain = StepRow("20260101", datetime(2026, 1, 1, tzinfo=UTC), "embed", "news", "done")
    full = StepRow(
        **{**vars(plain), "rows": 3, "figures": {"k": 0.5}, "inputs": {"t": 2}, "message": "m"}
    )
    table = pa.Table.from_pylist([plain.row(), full.row()], schema=SCHEMA)
    assert [StepRow.of(row) for row in table.to_pylist()] == [plain, full]
    assert plain.title == "embed news"
