import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from schemas.keys import KEYS, dense_codes, from_hex, hex_of, id_hashes

words = st.integers(0, 2**64 - 1)


def test_a_row_takes_48_bytes():
    assert KEYS.itemsize == 48


@given(st.lists(st.tuples(words, words)))
def test_hashes_come_back_from_text(pairs):
    hashes = np.array(pairs, "<u8").reshape(-1, 2)
    text = hex_of(hashes)
    assert text.type == pa.string()
    assert {len(value) for value in text.to_pylist()} <= {32}
    np.testing.assert_array_equal(from_hex(text, 2), hashes)


@given(st.lists(words))
def test_hashes_of_one_word_come_back_from_text(values):
    hashes = np.array(values, "<u8")
    np.testing.assert_array_equal(from_hex(hex_of(hashes), 1)[:, 0], hashes)


def test_text_is_the_hexadecimal_of_a_hash_s_bytes():
    digest = xxhash.xxh3_128_digest(b"a")
    assert hex_of(np.frombuffer(digest, "<u8").reshape(1, 2)).to_pylist() == [digest.hex()]
    assert hex_of(np.array([1, 2**64 - 1], "<u8")).to_pylist() == ["01" + "00" * 7, "ff" * 8]


def test_hashes_that_are_no_slice_of_memory_are_written_too():
    every_other = np.arange(8, dtype="<u8").reshape(4, 2)[::2]
    np.testing.assert_array_equal(from_hex(hex_of(every_other), 2), [[0, 1], [4, 5]])


@pytest.mark.parametrize("text", [None, "", "zz" * 16, "00" * 15, "00" * 17, "ß" * 32])
def test_what_is_no_hash_is_zeros(text):
    column = pa.chunked_array([[text], ["01" + "00" * 15]], pa.string())
    assert from_hex(column, 2).tolist() == [[0, 0], [1, 0]]


def test_no_hashes_are_empty_arrays():
    assert hex_of(np.zeros((0, 2), "<u8")).to_pylist() == []
    assert from_hex(pa.array([], pa.string()), 2).shape == (0, 2)
    assert id_hashes(pa.array([], pa.string())).shape == (0, 2)
    assert dense_codes(np.zeros((0, 2), "<u8")).shape == (0,)


def test_an_id_s_hash_is_xxh3_of_its_utf8_bytes_and_a_null_s_that_of_none():
    ids = pa.chunked_array([["a", None], ["größe"]])
    digests = [xxhash.xxh3_128_digest(text.encode()) for text in ("a", "", "größe")]
    assert id_hashes(ids).tobytes() == b"".join(digests)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 2**64 - 1]))))
def test_codes_are_those_of_numpy_s_unique(pairs):
    hashes = np.array(pairs, "<u8").reshape(-1, 2)
    _, expected = np.unique(hashes, axis=0, return_inverse=True)
    np.testing.assert_array_equal(dense_codes(hashes), expected.reshape(-1))
