import re
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from actors.encoders.transformer import TransformerEncoder
from actors.engine.engine import Setup, Tokens
from actors.engine.precision import (
    SAMPLE_TEXTS,
    SAMPLE_TOKENS,
    load_with_precision,
    precisions_to_try,
)
from tests.actors.encoders.test_transformer import save_plain

TEXTS = [chr(97 + row) * (row + 1) for row in range(9)]


@dataclass
class Encoder:
    """A text's vector counts its letters; what is wrong with it comes on top."""

    setup: Setup
    wrong: float = 0.0
    seconds: float = 0.0
    dim: int = 128
    max_tokens: int = 3000
    batches: list = field(default_factory=list)

    def tokenize(self, texts):
        if "bad" in texts:
            raise ValueError("cannot be tokenised")
        return Tokens([[ord(c) for c in text] for text in texts], np.zeros(len(texts), bool))

    def forward(self, ids):
        time.sleep(self.seconds)
        self.batches.append(list(map(len, ids)))
        vectors = np.stack([np.bincount(text, minlength=128) for text in ids]).astype(np.float32)
        vectors[:, 0] = self.wrong * np.linalg.norm(vectors, axis=1)
        return vectors


@dataclass
class Model:
    """Loads such encoders; `wrong` and `seconds` are by precision."""

    wrong: dict = field(default_factory=dict)
    seconds: dict = field(default_factory=dict)
    only: str = ""
    name: str = "letters"
    dim: int = 128
    loaded: list = field(default_factory=list)

    def load(self, device, threads, precision):
        wrong, seconds = self.wrong.get(precision, 0.0), self.seconds.get(precision, 0.0)
        encoder = Encoder(Setup(device, self.only or precision, lanes=threads), wrong, seconds)
        self.loaded.append(encoder)
        return encoder

    @property
    def precisions(self):
        return [encoder.setup.precision for encoder in self.loaded]


def test_precisions_are_tried_from_the_fastest_to_fp32():
    assert (
        precisions_to_try("auto", "cuda")
        == precisions_to_try("auto", "cuda:1")
        == ("fp16", "bf16", "fp32")
    )
    assert precisions_to_try("auto", "cpu") in (("bf16", "fp32"), ("fp32",))
    for device in ("cpu", "cuda"):
        assert precisions_to_try("fp32", device) == ("fp32",)
        assert precisions_to_try("bf16", device) == ("bf16", "fp32")
        assert precisions_to_try("fp16", device) == ("fp16", "fp32")


def test_fp32_takes_one_load_and_no_sample():
    model = Model()
    encoder, remarks = load_with_precision(model, "cpu", 3, "fp32", TEXTS)
    assert (encoder.setup, remarks) == (Setup("cpu", "fp32", lanes=3), [])
    assert model.loaded == [encoder]
    assert encoder.batches == []


@pytest.mark.parametrize(
    ("slow", "remark"),
    [("fp32", ""), ("bf16", r"bf16 is \d+\.\d times as slow as fp32 on this cpu\.")],
)
def test_a_precision_that_agrees_is_taken_when_asked_for(slow, remark):
    model = Model(wrong={"bf16": 0.04}, seconds={slow: 0.02})  # a cosine of 0.9992
    encoder, remarks = load_with_precision(model, "cpu", 1, "bf16", TEXTS)
    assert encoder.setup.precision == "bf16"
    assert re.fullmatch(remark, "".join(remarks))
    assert sorted(model.precisions) == ["bf16", "fp32"]


@pytest.mark.parametrize(("wrong", "cosine"), [(0.75, "0.8000"), (np.nan, "-1.0000")])
def test_a_precision_that_moves_vectors_is_refused_with_a_remark(wrong, cosine):
    model = Model(wrong={"bf16": wrong})
    encoder, remarks = load_with_precision(model, "cpu", 1, "bf16", TEXTS)
    assert encoder.setup.precision == "fp32"
    assert remarks == [
        f"bf16 moves vectors of letters (minimum cosine with fp32 {cosine} of 9 rows, expected"
        " 0.999); it was not used."
    ]
    assert sorted(model.precisions) == ["bf16", "fp32"]


def test_auto_takes_the_next_precision_where_the_first_moves_vectors():
    model = Model(wrong={"fp16": np.nan}, seconds={"fp32": 0.02})
    encoder, remarks = load_with_precision(model, "cuda", 1, "auto", TEXTS)
    assert encoder.setup == Setup("cuda", "bf16")
    assert len(remarks) == 1
    assert remarks[0].startswith("fp16 moves vectors of letters")
    assert sorted(model.precisions) == ["bf16", "fp16", "fp32"]  # fp32 only once


def test_auto_stays_with_fp32_where_nothing_is_faster():
    slow = {"fp16": 0.02, "bf16": 0.02}
    encoder, remarks = load_with_precision(Model(seconds=slow), "cuda", 1, "auto", TEXTS)
    assert (encoder.setup.precision, remarks) == ("fp32", [])


@pytest.mark.parametrize(
    ("wanted", "expected"), [("auto", []), ("bf16", ["letters computes in fp32 only."])]
)
def test_a_family_of_one_precision_is_returned_as_it_is(wanted, expected):
    model = Model(only="fp32", wrong={"fp16": 9.0, "bf16": 9.0})
    encoder, remarks = load_with_precision(model, "cuda", 1, wanted, TEXTS)
    assert (encoder.setup.precision, remarks) == ("fp32", expected)
    assert model.loaded == [encoder]


@pytest.mark.parametrize("texts", [[], ["", ""], ["bad"]])
def test_without_a_text_to_compare_the_precision_is_taken_unchecked(texts):
    encoder, remarks = load_with_precision(Model(wrong={"bf16": 9.0}), "cpu", 1, "bf16", texts)
    assert (encoder.setup.precision, remarks) == ("bf16", [])
    assert encoder.batches == []


def sampled(texts):
    """Lengths of the texts that two precisions are compared by."""
    encoder, _ = load_with_precision(Model(), "cpu", 1, "bf16", texts)
    assert all(batch == encoder.batches[0] for batch in encoder.batches)
    return encoder.batches[0]


def test_the_sample_has_texts_of_all_lengths_and_leaves_out_what_cannot_be_tokenised():
    assert sampled(["bad", *TEXTS, "", "bad"]) == list(range(1, 10))
    lengths = sampled(["a" * (1 + row % 50) for row in range(5000)])
    assert (len(lengths), lengths[0], lengths[-1]) == (SAMPLE_TEXTS, 1, 50)
    assert max(np.diff(lengths)) <= 2


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([SAMPLE_TOKENS + 1, SAMPLE_TOKENS + 1], [SAMPLE_TOKENS + 1]),  # one at least
        ([1, SAMPLE_TOKENS - 1], [1, SAMPLE_TOKENS - 1]),
        ([1, SAMPLE_TOKENS], [1]),
        ([300] * 40, [300] * 6),
    ],
)
def test_the_sample_is_bounded(lengths, expected):
    assert sampled(["a" * length for length in lengths]) == expected


@pytest.mark.parametrize("where", ["load", "forward"])
def test_a_precision_that_cannot_compute_here_is_refused(where):
    class Unsupported(Encoder):
        def forward(self, ids):
            raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")

    class OldDevice(Model):
        def load(self, device, threads, precision):
            if precision == "fp32":
                return super().load(device, threads, precision)
            encoder = Unsupported(Setup(device, precision))
            if where == "load":
                encoder.forward(encoder.tokenize(["a"]).ids)
            return encoder

    encoder, remarks = load_with_precision(OldDevice(), "cuda", 1, "auto", TEXTS)
    assert encoder.setup.precision == "fp32"
    assert [remark[:4] for remark in remarks] == ["fp16", "bf16"]


@pytest.mark.parametrize("kind", ["Bert", "MPNet"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_a_cpu_stays_near_fp32_and_ends_in_it(tmp_path, kind, precision):
    texts = ["the quick brown fox " * n for n in range(1, 13)] + ["a dog", "x", ""]
    exact, half = (
        TransformerEncoder(save_plain(tmp_path, kind), precision=p, threads=2)
        for p in ("fp32", precision)
    )
    ids = exact.tokenize(texts).ids
    vectors, expected = half.forward(ids), exact.forward(ids)
    assert half.setup.precision == precision
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors * expected).sum(axis=1).min() > 0.99
    assert np.abs(vectors - expected).max() > 1e-6  # it did compute otherwise
