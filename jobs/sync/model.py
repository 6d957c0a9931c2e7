"""The interface of a model for a sync."""

from typing import Any, Protocol

from actors.engine.precision import HostedModel
from schemas.tables.embeddings import Fingerprint


class SyncModel(HostedModel, Protocol):
    """The properties of a model that a sync uses; `actors.checkpoints.Model` has them."""

    @property
    def space(self) -> str:
        """Hash of the embedding space; vectors of one space may be compared."""

    @property
    def size_bytes(self) -> int:
        """Size of the model's weights in bytes."""

    @property
    def recipe(self) -> str:
        """Hash of all that decides a row's vector; a new recipe makes every row due."""

    @property
    def ingredients(self) -> dict[str, Any]:
        """Values that were hashed into space and recipe, as JSON; an error message shows those that differ."""

    @property
    def logit_scale(self) -> float | None:
        """Factor of cosines before a softmax; None if the model was trained without one."""


def fingerprint_of(model: SyncModel, chunking: str) -> Fingerprint:
    """Fingerprint that a run writes into its table: the model's properties and the size of passages.

    Args:
        model: of the run.
        chunking: `tokens/overlap` of passages; empty if documents stay whole.
    """
    recipe = f"{model.recipe}-{chunking.replace('/', '-')}" if chunking else model.recipe
    return Fingerprint(
        model=model.name,
        dim=model.dim,
        space=model.space,
        recipe=recipe,
        unit=model.unit,
        chunking=chunking,
        logit_scale=model.logit_scale,
        ingredients=model.ingredients,
    )
