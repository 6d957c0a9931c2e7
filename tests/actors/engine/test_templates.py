import numpy as np

from actors.engine.engine import Engine
from actors.engine.templates import encode_classes
from tests.support.hash_model import HashEncoder, vector_of


def test_a_class_is_the_mean_of_its_sentences():
    engine = Engine(HashEncoder(8, poison="bad"))
    texts = ["a dog\nthe dog", "a cat", "fine\nbad\nbad too", "x\ny\nz"]
    encoded = encode_classes(engine, texts, unit=False)
    means = [np.mean([vector_of(one) for one in text.split("\n")], axis=0) for text in texts]
    kept = [0, 1, 3]
    np.testing.assert_allclose(encoded.vectors[kept], np.array(means)[kept], atol=1e-6)
    assert encoded.vectors.dtype == np.float32
    assert encoded.n_tokens.tolist() == [12, 5, 4, 3]
    assert encoded.errors == {2: "RuntimeError: cannot embed 'bad'"}
    assert encoded.truncated.tolist() == [False] * 4
    unit = encode_classes(engine, texts[:2], unit=True).vectors
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit[0], means[0] / np.linalg.norm(means[0]), atol=1e-6)


def test_no_class_is_no_vector():
    encoded = encode_classes(Engine(HashEncoder(8)), [], unit=True)
    assert encoded.vectors.shape == (0, 8)
    assert len(encoded.n_tokens) == len(encoded.truncated) == 0
