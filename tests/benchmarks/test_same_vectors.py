import torch

from benchmarks.same_vectors import checksum
from tests.support.tiny_bert import tiny_bert

TEXTS = ["a b c", "c b", "a"]


def test_a_checksum_holds_for_the_same_weights_texts_and_order_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # as main does
    model = tiny_bert(tmp_path / "model", "abc")
    other = tiny_bert(tmp_path / "other", "abc", seed=8)
    first = checksum(str(model), TEXTS)
    assert len(bytes.fromhex(first)) == 16
    assert checksum(str(model), TEXTS) == first
    assert checksum(str(model), TEXTS[::-1]) != first
    assert checksum(str(other), TEXTS) != first
