"""Errors that end a sync before its work is done."""

from schemas.errors import UserError


class SyncError(UserError):
    """The run could not do its work; the message says why and what to do."""


class OtherSpace(SyncError):
    """The table holds vectors of another model, or passages instead of documents; the message says which."""
