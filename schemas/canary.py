"""The canary of a table: vectors of fixed texts or images, in the metadata of the field `embedding`.

A run that loads the model embeds the same items and compares the vectors, so that vectors of two kinds
never meet in one table although the recipe is the same.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

KEY = "embatch.canary"
# Distance of two vectors, as a share of the longer one, that still is rounding. In fp32 another
# implementation moves MiniLM's by 1e-6; fp16, whose products a GPU's TF32 are as coarse as, by 1.5e-3.
# Another resampling of images moves a small CLIP's by 6e-3, a text cut two tokens earlier MiniLM's by
# 1.2e-2, CLIP's gelu in place of its own by 0.05 to 0.13.
MOST_DISTANCE = 5e-3


@dataclass(frozen=True)
class Canary:
    """Vectors of fixed items, as a worker computed them in fp32.

    Attributes:
        items: what the fixed items are, texts or images, and their version.
        values: (n, k) float32 of n vectors; a row of NaN where an item could not be embedded.
        made_with: versions of the libraries, and the device, that computed the vectors; for a message.
    """

    items: str
    values: np.ndarray
    made_with: str

    def distance(self, other: "Canary") -> float:
        """The largest distance between the two vectors of an item, as a share of the longer vector's length.

        Both canaries must be of the same items. Infinite if their shapes differ, or if an item could be
        embedded in one of the two alone; 0 without items.
        """
        mine, theirs = self.values.astype(np.float64), other.values.astype(np.float64)
        if mine.shape != theirs.shape:
            return float("inf")
        lacking = np.isnan(mine).any(axis=1), np.isnan(theirs).any(axis=1)
        if (lacking[0] != lacking[1]).any():
            return float("inf")
        longer = np.maximum(np.linalg.norm(mine, axis=1), np.linalg.norm(theirs, axis=1))
        apart = np.linalg.norm(mine - theirs, axis=1) / np.maximum(
            longer, np.finfo(np.float32).tiny
        )
        return float(np.nan_to_num(apart).max(initial=0.0))

    def text(self) -> str:
        """The canary as JSON, a few kilobytes."""
        raw = base64.b64encode(self.values.astype("<f4").tobytes()).decode()
        told = {"items": self.items, "shape": self.values.shape, "values": raw}
        return json.dumps(told | {"made_with": self.made_with})

    @classmethod
    def of_text(cls, text: str) -> "Canary":
        """The canary that `text` wrote as JSON."""
        told: dict[str, Any] = json.loads(text)
        raw = np.frombuffer(base64.b64decode(told["values"]), "<f4")
        return cls(told["items"], raw.reshape(told["shape"]), told["made_with"])

    def metadata(self, recipe: str) -> dict[str, str]:
        """Metadata with the canary, for the field `embedding` of a table whose rows this recipe makes."""
        return {KEY: json.dumps({"recipe": recipe, "canary": self.text()})}

    @classmethod
    def of_table(cls, schema: pa.Schema, recipe: str) -> "Canary | None":
        """The canary that a table keeps of a recipe, None where it keeps none of it."""
        metadata = schema.field("embedding").metadata or {}
        if KEY.encode() not in metadata:
            return None
        told = json.loads(metadata[KEY.encode()])
        return cls.of_text(told["canary"]) if told["recipe"] == recipe else None
