"""Folders and object stores in which tables and sources lie, and the meaning of a store's errors.

A run has one set of options for all stores, in delta-rs's words (`AWS_REGION=eu-central-1`); what is
not among them comes from the environment. delta-rs reads and writes the logs of tables. Files on S3,
of tables as of sources, are read and written by pyarrow, which lets other threads work meanwhile.
"""

import os
import re
import urllib.parse
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from schemas.errors import UserError, error_line

STORES = ("s3", "s3a", "gs", "az", "adl", "abfs", "abfss")
PATIENCE = {"retry_timeout": "60s"}  # of delta-rs, whose own is three minutes a request
RETRIES = 8  # of pyarrow, six seconds in all
TRIES = 5  # of a call of delta-rs, which gives up where an answer is cut off
CONNECT_SECONDS = 5.0
STALL_SECONDS = 5.0  # without a byte
_MEANINGS = (
    (
        r"169\.254\.169\.254|Missing SecretAccessKey|Missing AccessKeyId|`\w+_key` is not set",
        "no credentials were found, or a half of them. Give those of the store in the environment or with "
        "--storage-option (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)",
    ),
    (
        r"SignatureDoesNotMatch|SIGNATURE_DOES_NOT_MATCH|InvalidAccessKeyId|INVALID_ACCESS_KEY_ID|"
        r"ExpiredToken|EXPIRED_TOKEN|InvalidToken|AccessDenied|ACCESS_DENIED|403 Forbidden|401 Unauthorized",
        "the store refuses these credentials. Check the key, the secret and what they may do there (for S3 "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the environment or with --storage-option)",
    ),
    (
        r"NoSuchBucket|NO_SUCH_BUCKET",
        "there is no such bucket. embatch makes none: make it, or check its name, AWS_REGION and AWS_ENDPOINT_URL",
    ),
    (
        r"PermanentRedirect|HTTP status 301|[Rr]edirect without LOCATION",
        "the bucket lies in another region. Give its AWS_REGION, in the environment or with --storage-option",
    ),
    (
        r"URL scheme is not allowed",
        "the endpoint is plain http. If that is meant, add --storage-option AWS_ALLOW_HTTP=true",
    ),
    (
        r"PutMode::Create",
        "conditional puts are off, and without them two writers could lose each other's rows. Leave aws_conditional_put out",
    ),
    (
        r"SlowDown|SLOW_DOWN|503 Service Unavailable|HTTP status 503",
        "the store asks to slow down and did so for too long. Run again later",
    ),
    (
        r"Connection refused|Could not connect|dns error|Could not resolve|operation timed out|Timeout was reached|"
        r"NETWORK_CONNECTION|tcp connect error|connection closed|response body error",
        "the store does not answer as it should. Check AWS_ENDPOINT_URL, AWS_REGION and the network, and run again",
    ),
)
_T = TypeVar("_T")
_MISREAD = re.compile(r"%[0-9A-Fa-f]{2}|[\x00-\x1f\x7f]|\\")  # in a path, by delta-rs
_MISREAD_IN_URI = re.compile(rf"{_MISREAD.pattern}|[?#]|//|(?<=/)\.\.?(?=/|$)| (?=/?$)")


class StoreError(UserError):
    """Error: a table cannot be opened, read or written; the message says what to do."""


def in_store(place: str) -> bool:
    """True if a path or URI lies in an object store."""
    scheme, found, _ = place.partition("://")
    return bool(found) and scheme in STORES


def split_bucket(uri: str) -> tuple[str, str]:
    """The bucket of a URI, `s3://bucket`, and the path within the bucket."""
    scheme, _, rest = uri.partition("://")
    bucket, _, path = rest.partition("/")
    return f"{scheme}://{bucket}", path


def s3_folder(uri: str, options: Mapping[str, str]) -> pafs.FileSystem:
    """The pyarrow filesystem of a prefix in S3.

    Raises:
        StoreError: the options do not fit together, such as a key without its secret.
    """
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    given = {
        name.lower().removeprefix("aws_"): value
        for name, value in (*environment.items(), *options.items())
    }
    folder = uri.partition("://")[2].rstrip("/")
    try:
        return pafs.SubTreeFileSystem(folder, _s3(tuple(sorted(given.items()))))
    except ValueError as error:
        raise StoreError(f"Cannot open {uri}: {reason(error)}") from error


@lru_cache(maxsize=8)
def _s3(settings: tuple[tuple[str, str], ...]) -> pafs.S3FileSystem:
    """The S3 client for a set of options; one client is kept for each set, with its connections."""
    given = dict(settings)
    anonymous = _is_on(given.get("skip_signature"))
    keys = {
        "access_key": given.get("access_key_id"),
        "secret_key": given.get("secret_access_key"),
        "session_token": given.get("session_token", given.get("token")),
    }
    return pafs.S3FileSystem(
        **({} if anonymous else keys),
        anonymous=anonymous,
        region=given.get("region", given.get("default_region")),
        endpoint_override=given.get("endpoint_url", given.get("endpoint")),
        force_virtual_addressing=_is_on(given.get("virtual_hosted_style_request")),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=STALL_SECONDS,
        retry_strategy=pafs.AwsDefaultS3RetryStrategy(RETRIES),
    )


def _is_on(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "yes", "on", "t", "y")


def reason(error: BaseException) -> str:
    """The error in one line, in plain words if it is a known error of stores."""
    text = " ".join(re.sub(r"\s*↳\s*", ": ", str(error)).split())
    for pattern, meaning in _MEANINGS:
        if found := re.search(pattern, text):
            return f"{meaning} ({found.group()}{_where(text)})."
    return error_line(text or error)


def _where(text: str) -> str:
    """The host or key that a failed request went to, as ` at HOST`; empty if the error names none."""
    found = re.search(
        r"https?://[^/\s?]+|(?<=Failed to connect to )\S+|key '[^']*' in bucket '[^']*'", text
    )
    return f" at {found.group()}" if found else ""


def is_transient(error: BaseException) -> bool:
    """True if the error is transient: an answer was cut off, after which delta-rs does not try again."""
    return "response body error" in str(error)


def filesystem(uri: str, options: Mapping[str, str] | None = None) -> pafs.FileSystem:
    """The pyarrow filesystem of a table's folder, with the same credentials as for the table's log."""
    if uri.startswith(("s3://", "s3a://")):
        return s3_folder(uri, options or {})
    if "://" in uri and not uri.startswith("file://"):
        return pafs.PyFileSystem(DeltaStorageHandler(uri, settings(uri, options)))
    path = urllib.parse.unquote(uri.removeprefix("file://"))
    return pafs.SubTreeFileSystem(path, pafs.LocalFileSystem())


def settings(uri: str, options: Mapping[str, str] | None) -> dict[str, str] | None:
    """Storage options for delta-rs: the user's, and the time of retries in object stores; None for none."""
    return {**(PATIENCE if in_store(uri) else {}), **(options or {})} or None


def call_store(doing: str, call: Callable[[], _T]) -> _T:
    """Call a function that reads from a store; call it again if the answer was cut off.

    Args:
        doing: what the call does, for the error: "Cannot DOING: …".
        call: the function, without arguments.

    Raises:
        StoreError: the call failed. A TableNotFoundError is raised as it is.
    """
    for n_left in reversed(range(TRIES)):
        try:
            return call()
        except TableNotFoundError:
            raise
        except (DeltaError, OSError, pa.ArrowInvalid) as error:  # the last: a damaged file
            if not (n_left and is_transient(error)):
                raise StoreError(f"Cannot {doing}: {reason(error)}") from error
    raise AssertionError("the last try returns or raises")


def refuse_place(uri: str) -> None:
    """Raise a StoreError if no table can be at a URI: a file is there, or delta-rs misreads the name."""
    if os.path.isfile(uri):
        raise StoreError(f"{uri} is a file. TABLE is a folder (a new one, or a table of embatch).")
    _, is_uri, path = uri.partition("://")
    found = _MISREAD_IN_URI.search(path) if is_uri else None
    if not (found or in_store(uri)):  # delta-rs follows links before it reads a path
        found = _MISREAD.search(os.path.realpath(path or uri).replace(os.sep, "/"))
    if found:
        raise StoreError(
            f"No table can be at {uri}: Delta Lake's library takes {found.group()!r} in {found.string} "
            "for something else and would mix the table up with another. Rename that folder, or give a "
            "TABLE elsewhere (blanks and other letters are written as they are, also in a URI)."
        )


def refuse_other_content(uri: str, options: Mapping[str, str] | None = None) -> None:
    """Raise a StoreError if a new table would lie among other files."""
    refuse_place(uri)
    names = os.listdir(uri) if os.path.isdir(uri) else []
    if in_store(uri):
        bucket, folder = split_bucket(uri)
        there = pafs.FileSelector(folder, allow_not_found=True)
        found = call_store(
            f"look into {uri}", lambda: filesystem(bucket, options).get_file_info(there)
        )
        names = [info.base_name for info in found]
    if names and "_delta_log" not in names:
        raise StoreError(
            f"{uri} is no table and not empty (it holds {min(names)}). Give a new folder as TABLE."
        )
