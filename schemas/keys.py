"""Keys of rows, 48 bytes each: hashes and the address, which a plan compares for source and table alike."""

import numpy as np
import pyarrow as pa
import xxhash

KEYS = np.dtype(
    [
        ("id", "<u8", 2),  # 128-bit hash of the id (of the parent's id for passages)
        ("content", "<u8", 2),
        ("row", "<u8"),
        ("where", "<i4"),  # index of the file of the source or of the table
        ("position", "<u4"),  # row within it
    ]
)


def id_hashes(ids: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """128-bit hashes of ids, (n, 2) uint64; a null id is hashed like an empty one."""
    digests = b"".join(xxhash.xxh3_128_digest((i or "").encode()) for i in ids.to_pylist())
    return np.frombuffer(digests, "<u8").reshape(-1, 2)


def from_binary(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column of 16-byte hashes without nulls as (n, 2) uint64."""
    return np.frombuffer(b"".join(column.to_pylist()), "<u8").reshape(-1, 2)


def hex_of(hashes: np.ndarray) -> pa.Array:
    """Hexadecimal text of the bytes of hashes, (n,) or (n, k) uint64, as tables hold it."""
    width = hashes.dtype.itemsize * (hashes.shape[1] if hashes.ndim == 2 else 1) * 2
    text = np.ascontiguousarray(hashes).tobytes().hex()
    return pa.array([text[i : i + width] for i in range(0, len(text), width)], pa.string())


def from_hex(column: pa.ChunkedArray | pa.Array, n_words: int) -> np.ndarray:
    """Hashes of hexadecimal text, (n, n_words) uint64; the inverse of `hex_of`, zeros for any other cell."""
    width = 16 * n_words
    parts = []
    for value in column.to_pylist():
        try:
            word = bytes.fromhex(value or "")
        except ValueError:
            word = b""
        parts.append(word if len(word) * 2 == width else bytes(width // 2))
    return np.frombuffer(b"".join(parts), "<u8").reshape(-1, n_words)


def dense_codes(hashes: np.ndarray) -> np.ndarray:
    """Small numbers that are equal where hashes are: (n, 2) uint64 to (n,) int64 in [0, n distinct)."""
    if len(hashes) == 0:
        return np.zeros(0, np.int64)
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    is_new = np.concatenate(([False], (ordered[1:] != ordered[:-1]).any(axis=1)))
    codes = np.empty(len(hashes), np.int64)
    codes[order] = np.cumsum(is_new)
    return codes
