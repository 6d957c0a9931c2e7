import pytest

from jobs.sync.tally import Tally

REPORT = {
    "n_due": 3,
    "n_tokens": 40,
    "n_truncated": 1,
    "n_unknown": 0,
    "n_rows": 3,
    "n_computed": 50,
    "busy_seconds": 1.5,
    "remarks": ["a remark"],
    "precision": "fp32",
    "token_budget": 1024,
}


def test_reports_are_summed():
    tally = Tally(n_actors=2)
    assert (tally.precision, tally.padding_waste, tally.starved_share(1.0)) == (None, 0.0, 0.0)
    tally.add(REPORT)
    tally.add({**REPORT, "n_computed": 30, "precision": "bf16", "token_budget": 2048})
    tally.add({**REPORT, "n_tokens": 0, "n_computed": 0, "precision": None})  # copied vectors alone
    assert (tally.n_due, tally.n_tokens, tally.n_rows, tally.n_truncated) == (9, 80, 9, 3)
    assert (tally.precision, tally.token_budget, tally.remarks) == ("bf16+fp32", 2048, {"a remark"})
    assert tally.padding_waste == 0
    assert tally.starved_share(9.0) == pytest.approx(1 - 4.5 / 9 / 2)
    assert tally.starved_share(1.0) == 0
