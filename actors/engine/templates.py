r"""Vectors of class names: the sentences of each class are embedded and averaged.

Images find their class more often if a text tower embeds the class name in several sentences instead of
alone (Radford et al. 2021, section 3.1.4). Vectors of one class are averaged and brought to unit length.
`sources.labels` puts names into sentences, so that the column `text` holds what the model sees.

    encode_classes(engine, ["a photo of a dog\na drawing of a dog", "a photo of a cat"]).vectors
"""

from collections.abc import Sequence

import numpy as np

from actors.engine.engine import Encoded, Engine
from schemas.errors import UsageError

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
    """Templates that a user asked for; without any, the default for the model.

    Args:
        asked: Templates, or names of SETS, which stand for several.
        shows_images: True if the model also embeds images; its default is PHOTO, else BARE.

    Raises:
        UsageError: A template does not hold `{}` exactly once.
    """
    given = [template for one in asked for template in SETS.get(one, (one,))]
    for template in given:
        if template.count("{}") != 1:
            raise UsageError(
                f"--template {template!r}: expected {{}} in it once, where the name is put, or one of"
                f" the sets {', '.join(SETS)}."
            )
    return tuple(given) or (PHOTO if shows_images else BARE)


def encode_classes(engine: Engine, texts: Sequence[str], *, unit: bool) -> Encoded:
    """Embed classes: the vector of a class is the mean over its sentences.

    Args:
        engine: Engine with a text encoder.
        texts: n texts, one a class; each line of a text is a sentence.
        unit: True to bring the means to unit length.

    Returns:
        Vectors (n, dim) float32, one a class, with the tokens of all its sentences. If a sentence fails,
        its class fails, with the reason of its first failed sentence.
    """
    lines = [text.split("\n") for text in texts]
    encoded = engine.encode([sentence for some in lines for sentence in some])
    class_of = np.repeat(np.arange(len(texts)), [len(some) for some in lines])
    starts = np.searchsorted(class_of, np.arange(len(texts)))
    counts = np.bincount(class_of, minlength=len(texts))

    def summed(values: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.add.reduceat(values, starts) if len(starts) else values
        return found

    vectors = summed(encoded.vectors) / counts[:, None].astype(np.float32)
    if unit:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(norms, np.finfo(np.float32).tiny)
    errors: dict[int, str] = {}
    for row in sorted(encoded.errors):
        errors.setdefault(int(class_of[row]), encoded.errors[row])
    return encoded._replace(
        vectors=vectors,
        n_tokens=summed(encoded.n_tokens),
        truncated=summed(encoded.truncated.astype(np.int32)) > 0,
        errors=errors,
    )
