"""Which columns of a source are text, id and others, checked before work starts."""

from dataclasses import replace

import pyarrow as pa

from sources.rows import SourceError, SourceOptions


def with_columns(options: SourceOptions, schema: pa.Schema) -> SourceOptions:
    """The options with the text column found, checked against a file's columns.

    Raises:
        SourceError: A column does not exist, or the text column is not to be found.
    """
    names = schema.names
    for option, wanted in (
        ("text", options.text_column),
        ("id", () if options.id_column is None else (options.id_column,)),
        ("other", options.columns or ()),
    ):
        for name in wanted:
            if name not in names:
                raise SourceError(
                    f"{options.path} has no column {name!r} (asked for as {option} column). "
                    f"It has: {', '.join(names)}."
                )
    if options.text_column:
        return options
    strings = [f.name for f in schema if is_text(f.type) and f.name != options.id_column]
    if "text" in names:
        strings = ["text"]
    if len(strings) != 1:
        found = "several columns of strings" if strings else "no column of strings"
        raise SourceError(
            f"{options.path} has no column 'text' and {found}, so the text column must be named. "
            f"Its columns: {', '.join(f'{f.name} ({f.type})' for f in schema)}."
        )
    return replace(options, text_column=tuple(strings))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings, also behind a dictionary."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        f(kind) for f in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )
