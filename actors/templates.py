"""Class names become vectors: put into sentences, embedded, averaged.

A class that is shown to a text tower in several sentences is found more often than by its bare name
(Radford et al. 2021, section 3.1.4). Vectors of one class are averaged and brought to unit length.

    encode_classes(engine, ["dog", "cat"], ("a photo of a {}", "a drawing of a {}")).vectors
"""

from collections.abc import Sequence

import numpy as np

from actors.engine import Encoded, Engine

SETS: dict[str, tuple[str, ...]] = {
    "photos": (
        "a photo of a {}",
        "a close view of a {}",
        "a {} seen from far away",
        "a blurred picture of a {}",
        "a dark picture of a {}",
        "many {} in one picture",
        "a drawing of a {}",
    ),
}
PHOTO = ("a photo of a {}",)
BARE = ("{}",)


def templates_of(asked: Sequence[str], *, shows_images: bool) -> tuple[str, ...]:
    """Templates, with the names of SETS written out; without any, what suits the model.

    Raises:
        ValueError: One holds no place for a name, or several.
    """
    given = [template for one in asked for template in SETS.get(one, (one,))]
    for template in given:
        if template.count("{}") != 1:
            raise ValueError(
                f"--template {template!r}: expected {{}} in it once, where the name is put, or one of"
                f" the sets {', '.join(SETS)}."
            )
    return tuple(given) or (PHOTO if shows_images else BARE)


def encode_classes(
    engine: Engine, wordings: Sequence[str], templates: tuple[str, ...], *, unit: bool
) -> Encoded:
    """Embed each wording in all templates.

    Args:
        engine: Of a text encoder.
        wordings: One a class.
        templates: With {} where a wording is put; at least one.
        unit: Whether to bring the means to unit length.

    Returns:
        One vector a class, its tokens summed; a class fails with the first of its sentences.
    """
    n = len(templates)
    sentences = [template.replace("{}", word) for word in wordings for template in templates]
    encoded = engine.encode(sentences)
    vectors = encoded.vectors.reshape(len(wordings), n, -1).mean(axis=1)
    if unit:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(norms, np.finfo(np.float32).tiny)
    errors: dict[int, str] = {}
    for row in sorted(encoded.errors):
        errors.setdefault(row // n, encoded.errors[row])
    return encoded._replace(
        vectors=vectors,
        n_tokens=encoded.n_tokens.reshape(-1, n).sum(axis=1, dtype=np.int32),
        truncated=np.logical_or.reduce(encoded.truncated.reshape(-1, n), axis=1),
        errors=errors,
    )
