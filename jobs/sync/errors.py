"""How a sync ends that could not do its work."""

from schemas.errors import UserError


class SyncError(UserError):
    """A run that ends without having done its work; the message says why and what to do."""


class OtherSpace(SyncError):
    """The table holds vectors of another model, or cut otherwise; the message says which."""
