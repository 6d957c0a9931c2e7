"""Errors that a user can cause, and the line in which an error is kept and shown."""

import re

LINE_CHARS = 300
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_USER_PART = re.compile(r"://[^/@\s]+@")
_SECRET_PART = re.compile(
    r"([?&][\w.-]*(?:sig|token|key|secret|password|credential)[\w.-]*=)[^&\s'\"]+", re.IGNORECASE
)


class UserError(Exception):
    """An error that the user can cause and mend: a command shows its message, without a traceback."""


class UsageError(UserError, ValueError):
    """Error: options, or a file of settings, are wrong; the exit code is 2."""


def error_line(error: BaseException | str) -> str:
    """The first line of an error, without colours and secrets, at most 300 characters; never empty."""
    lines = _COLOUR.sub("", str(error)).strip().splitlines()
    return without_secrets(lines[0])[:LINE_CHARS] if lines else type(error).__name__


def named_error_line(error: BaseException) -> str:
    """The `error_line` of an error, after the name of its class: `MemoryError: …`."""
    return f"{type(error).__name__}: {error_line(error) if str(error).strip() else ''}"[:LINE_CHARS]


def without_secrets(text: str) -> str:
    """The text without the passwords, tokens and signatures in its URLs.

    >>> without_secrets("https://me:1234@host/a?page=2&token=abc")
    'https://…@host/a?page=2&token=…'
    """
    return _SECRET_PART.sub(r"\1…", _USER_PART.sub("://…@", text))
