"""The columns and the metadata of an embeddings table.

One row an id: `id`, `content_hash`, `row_hash`, `text`, the source's other columns, `n_tokens`,
`truncated`, `embedding`, `embedded_at`; tables of passages also hold `parent_id`, `chunk`, `start`
and `end`. Tables of images hold `image` in place of `text`, and count no tokens. The metadata of the field
`embedding` says which model made the vectors, and how.
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Protocol

import pyarrow as pa

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # bytes may be left out
DIFFERENCES_TOLD = 4
DEFAULT = "at its default"  # of a setting that is not told
PASSAGE_FIELDS = (
    pa.field("parent_id", pa.string()),
    pa.field("chunk", pa.int32()),
    pa.field("start", pa.int64()),
    pa.field("end", pa.int64()),
)


class FingerprintedModel(Protocol):
    """The properties of a model that its fingerprint holds; `actors.checkpoints.Model` has them."""

    @property
    def name(self) -> str:
        """Name of the model, for display."""

    @property
    def dim(self) -> int:
        """Values a vector."""

    @property
    def space(self) -> str:
        """Hash of the embedding space; vectors of one space may be compared."""

    @property
    def recipe(self) -> str:
        """Hash of all that decides a row's vector; a new recipe makes every row due."""

    @property
    def unit(self) -> bool:
        """True if vectors have unit length."""

    @property
    def logit_scale(self) -> float | None:
        """Factor of cosines before a softmax; None if the model was trained without one."""

    @property
    def ingredients(self) -> dict[str, Any]:
        """Values that were hashed into space and recipe, as JSON; an error message shows those that differ."""


@dataclass(frozen=True)
class Fingerprint:
    """Model, space and recipe of a table's vectors, kept in the metadata of the field `embedding`.

    Attributes:
        model: the model's name, for display.
        dim: values a vector.
        space: identifier of the space: vectors of two tables with one space may be compared.
        recipe: identifier of the recipe: a row embedded by another recipe is due again.
        unit: True if every vector has norm 1.
        chunking: `chunk_tokens/chunk_overlap`, or empty where a row is a whole document.
        logit_scale: factor of cosines before a softmax in the model's training, None if there was none.
        ingredients: the values that space and recipe are hashes of, by name (weights, settings, prompt,
            templates …), to say what differs; empty where older versions did not write them down.
    """

    model: str
    dim: int
    space: str
    recipe: str
    unit: bool = True
    chunking: str = ""
    logit_scale: float | None = None
    ingredients: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def metadata(self) -> dict[str, str]:
        """The fingerprint as field metadata, one `embatch.NAME` each."""
        return {f"embatch.{name}": json.dumps(value) for name, value in asdict(self).items()}

    @property
    def comparison_key(self) -> tuple[str, int, bool]:
        """Space, dimension, and True for passages: all rows of a table share these, the recipe may differ."""
        return self.space, self.dim, bool(self.chunking)

    def is_comparable_with(self, other: "Fingerprint") -> bool:
        """True if vectors of both can be compared: one space, or one model under two names of its space."""
        if self.dim != other.dim:
            return False
        made_of = [
            (one.unit, one.ingredients.get("weights"), one.ingredients.get("settings"))
            for one in (self, other)
        ]
        return self.space == other.space or (None not in made_of[0] and made_of[0] == made_of[1])

    @property
    def field(self) -> pa.Field:
        """The Arrow field `embedding` of a file, with its metadata."""
        return pa.field("embedding", pa.list_(pa.float32(), self.dim), metadata=self.metadata())

    @classmethod
    def of_model(cls, model: FingerprintedModel, chunking: str = "") -> "Fingerprint":
        """The fingerprint of a model that embeds documents, or passages of them.

        Args:
            model: embeds the rows.
            chunking: `tokens/overlap` of passages; empty if documents stay whole.
        """
        recipe = f"{model.recipe}-{chunking.replace('/', '-')}" if chunking else model.recipe
        return cls(
            model=model.name,
            dim=model.dim,
            space=model.space,
            recipe=recipe,
            unit=model.unit,
            chunking=chunking,
            logit_scale=model.logit_scale,
            ingredients=model.ingredients,
        )

    @classmethod
    def of(cls, schema: pa.Schema) -> "Fingerprint | None":
        """The fingerprint in a schema of a table or a file, None where there is none."""
        if "embedding" not in schema.names:
            return None
        metadata = {
            k.decode(): v.decode() for k, v in (schema.field("embedding").metadata or {}).items()
        }
        held = {
            field.name: json.loads(metadata[f"embatch.{field.name}"])
            for field in fields(cls)
            if f"embatch.{field.name}" in metadata
        }
        needed = {
            field.name
            for field in fields(cls)
            if field.default is MISSING and field.default_factory is MISSING
        }
        return cls(**held) if needed <= held.keys() else None


def what_differs(held: Fingerprint, other: Fingerprint) -> str:
    """Why two models of one name make vectors that cannot be compared, for a message."""
    told = []
    if held.unit != other.unit:
        told.append(f"unit length is {other.unit}, was {held.unit}")
    if held.ingredients and other.ingredients:
        if held.ingredients.get("weights") != other.ingredients.get("weights"):
            told.append("its weights are others")
        settings = (one.ingredients.get("settings") for one in (held, other))
        told += _differences("settings", *settings)
    elif not held.ingredients:
        told.append("what went into the first was not written down yet")
    spaces = f"its space is {other.space}, was {held.space}"
    return "; ".join([*told[:DIFFERENCES_TOLD], spaces])


def _differences(name: str, before: Any, now: Any) -> list[str]:  # noqa: ANN401
    """Differences of two JSON values, leaf by leaf, each named by the nearest object's key."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [one for key in keys for one in _differences(key, before.get(key), now.get(key))]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = zip(before, now, strict=True)
        return [one for old, new in pairs for one in _differences(name, old, new)]
    values = (DEFAULT if value is None else json.dumps(value) for value in (now, before))
    return [] if before == now else ["{} is {}, was {}".format(name, *values)]


def table_schema(
    columns: Iterable[pa.Field],
    fingerprint: Fingerprint,
    *,
    with_text: bool = True,
    modality: str = "text",
) -> pa.Schema:
    """The schema of an embeddings table that holds these columns of a source."""
    is_text = modality == "text"
    item = (pa.field("text", pa.string()),) if is_text else (pa.field("image", IMAGE_TYPE),)
    counts = (pa.field("n_tokens", pa.int32()), pa.field("truncated", pa.bool_()))
    return pa.schema(
        [
            pa.field("id", pa.string()),
            *(PASSAGE_FIELDS if fingerprint.chunking else ()),
            pa.field("content_hash", pa.string()),
            pa.field("row_hash", pa.string()),
            *(item if with_text or not is_text else ()),
            *columns,
            *(counts if is_text else ()),
            fingerprint.field,
            pa.field("embedded_at", pa.timestamp("us", tz="UTC")),
        ]
    )


def is_of_words(schema: pa.Schema) -> bool:
    """True if a table holds the words of a model, which no source keeps up to date."""
    return {"rank", "norm", "embedding"} <= set(schema.names) and "content_hash" not in schema.names


def textless_kind(schema: pa.Schema) -> str | None:
    """The kind of a table that holds no texts, for messages; None for a table with texts."""
    if "text" in schema.names:
        return None
    if is_of_words(schema):
        return "a table of words"
    return "a table of images" if "image" in schema.names else "a table embedded with --no-text"
