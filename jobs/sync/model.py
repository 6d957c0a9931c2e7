"""What a sync needs to know of a model."""

from typing import Any, Protocol

from actors.engine.precision import HostedModel
from schemas.tables.embeddings import Fingerprint


class SyncModel(HostedModel, Protocol):
    """What a sync needs to know of a model; `actors.checkpoints.Model` is one."""

    @property
    def space(self) -> str:
        """Vectors of one space may be compared."""

    @property
    def size_bytes(self) -> int:
        """Of the weights."""

    @property
    def recipe(self) -> str:
        """Another recipe makes every row due."""

    @property
    def ingredients(self) -> dict[str, Any]:
        """What went into space and recipe, as JSON, to say what differs."""

    @property
    def logit_scale(self) -> float | None:
        """What cosines are multiplied by before a softmax; None where training had none."""


def fingerprint_of(model: SyncModel, chunking: str) -> Fingerprint:
    """What a run writes that cuts documents so."""
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
