"""The options of `embatch embed`, and the checks of their values."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from actors.engine.templates import templates_of
from jobs.runtime.command import Flag, storage_options, table_uri
from schemas.delta.places import in_store
from schemas.errors import UsageError

Names = Annotated[str, tyro.conf.arg(metavar="A,B", help_behavior_hint="")]
Text = Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
Number = Annotated[int, tyro.conf.arg(metavar="N", help_behavior_hint="")]


@dataclass(frozen=True)
class EmbedConfig:
    """Source, model, table and settings of a run.

    Attributes:
        source: file, glob, folder, URI, Delta table, datasets folder or hub name (owner/name:split)
        table: folder or bucket prefix of the table; made where there is none
        model: a name that `embatch models` lists, a local folder, a hub name, or a file of word vectors
        text_column: columns that make the text, joined by a newline (default: `text`, else the only column of strings)
        image_column: column of images (default: the only one, unless a text column is named)
        label_from_folder: the folder that an image lies in is its column `label`
        id_column: column of ids (default: the path where a file is one row, else a hash of its text or image)
        columns: other columns to keep (default: all)
        max_chars: cut each text to so many characters
        limit: take only the first N rows, to try things out
        delimiter: character between the fields of a CSV file
        quote: character around fields of a CSV file
        encoding: character encoding of CSV, JSON and text files without a byte order mark (default: UTF-8)
        no_header: the first row of a CSV file is data; its columns are column_1, column_2, ...
        lines: each line of a text file is one text
        feeds: SOURCE is a folder of news feeds, CATEGORY/.../FEED-YYYY-MM-DD/hh-mm.txt, whose items are rows
        labels: SOURCE is a file of class names, one a line, or `name: wording`
        template: with --labels, a sentence with {}, where each name, or wording that is no sentence, is put in; the vectors of several are averaged (default: `a photo of a {}` for names, where the model also embeds images)
        prompt: name of one of the model's prompts (passage, query), or the words to put before a text
        max_tokens: cut texts to so many tokens (default: the model's own bound)
        word_weights: file that says how much each word counts, written by `embatch words weights`
        chunk_tokens: cut documents into passages of so many tokens
        chunk_overlap: tokens that two neighbouring passages share
        prune: remove rows of the table that the source has no longer
        force_prune: with --prune, remove rows even if they are more than a fifth of the table
        replace: embed every row anew, also with another model
        retry_failed: try rows again that failed before
        max_failures: share of the rows tried (of 100 at least) that may fail for the first time; the run counts as failed above it
        precision: number format of the computation; auto is the fastest whose vectors are close to those of fp32
        device: processor that runs the model
        actors: processes that host the model (default: from the machines)
        vector_dtype: float16 rounds vectors, which halves the files
        no_text: leave the text out of a new table
        keep_images: keep the images' bytes in the table, not only their paths
        dry_run: say what would be done and how long it would take; write nothing
        wait: wait while another run writes to the table, instead of leaving
        address: Ray cluster to join (default: RAY_ADDRESS, else a Ray that is started on this machine)
        shared_filesystem: declare that all nodes of the cluster see TABLE under its local path
        storage_option: KEY=VALUE for the object store, once for each
        log: file to which a line of JSON is added for each event of the run
        json: print the summary as one line of JSON, the last on stdout
        verbose: show Ray's messages
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")]
    text_column: Names = ""
    image_column: Text = ""
    label_from_folder: Flag = False
    id_column: Text = ""
    columns: Names = ""
    max_chars: Number = 0
    limit: Number = 0
    delimiter: str = ","
    quote: str = '"'
    encoding: Text = ""
    no_header: Flag = False
    lines: Flag = False
    feeds: Flag = False
    labels: Flag = False
    template: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    prompt: Text = ""
    max_tokens: Number = 0
    word_weights: Text = ""
    chunk_tokens: Number = 0
    chunk_overlap: Number = 0
    prune: Flag = False
    force_prune: Flag = False
    replace: Flag = False
    retry_failed: Flag = False
    max_failures: float = 0.1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    actors: Number = 0
    vector_dtype: Literal["float32", "float16"] = "float32"
    no_text: Flag = False
    keep_images: Flag = False
    dry_run: Flag = False
    wait: Flag = False
    address: Text = ""
    shared_filesystem: Flag = False
    storage_option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    log: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    json: Flag = False
    verbose: Flag = False

    def __post_init__(self) -> None:
        for name in ("max_chars", "limit", "max_tokens", "chunk_tokens", "chunk_overlap", "actors"):
            if getattr(self, name) < 0:
                raise UsageError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}, expected 1 or more."
                )
        if not 0 <= self.max_failures <= 1:
            raise UsageError(
                f"--max-failures is {self.max_failures}, expected a share from 0 to 1."
            )
        if self.chunk_overlap and self.chunk_overlap >= self.chunk_tokens:
            raise UsageError(
                f"--chunk-overlap is {self.chunk_overlap}, expected less than --chunk-tokens ({self.chunk_tokens})."
            )
        if self.prune and self.limit:
            raise UsageError(
                "--prune with --limit would remove every row that --limit leaves out. Drop one of them."
            )
        if self.force_prune and not self.prune:
            raise UsageError("--force-prune says how far --prune may go. Add --prune.")
        if self.template and not self.labels:
            raise UsageError("--template is what class names are put into. Add --labels.")
        if self.labels and self.chunk_tokens:
            raise UsageError("--labels takes names of classes; --chunk-tokens is for documents.")
        templates_of(self.template, shows_images=False)
        storage_options(self.storage_option)

    @property
    def uri(self) -> str:
        """Address of the table that every node understands: a URI or an absolute path."""
        return table_uri(self.table)

    @property
    def store(self) -> dict[str, str]:
        """Options of the object store, by name."""
        return storage_options(self.storage_option)

    @property
    def quiet(self) -> bool:
        """True if no progress is shown."""
        return self.json and not sys.stderr.isatty()

    @property
    def chunking(self) -> str:
        """Size and overlap of passages in tokens, as `tokens/overlap`; empty if documents stay whole."""
        return f"{self.chunk_tokens}/{self.chunk_overlap}" if self.chunk_tokens else ""

    def refuse_nesting(self) -> None:
        """Raise a UsageError if the table lies inside its source: the next run would read it as source."""
        source, table = self.source, self.uri
        is_inside = in_store(table) and f"{table}/".startswith(f"{source.rstrip('/')}/")
        if "://" not in source and "://" not in table and os.path.isdir(source):
            folder, inner = Path(source).resolve(), Path(table).resolve()
            is_inside = inner == folder or folder in inner.parents
        if is_inside:
            raise UsageError(
                f"TABLE {table} lies inside SOURCE {source}, and would be read as a part of it. Move it out."
            )

    def refuse_text_options(self) -> None:
        """Raise a UsageError if an option is given that is about texts, for a source of images."""
        names = ("max_chars", "prompt", "max_tokens", "chunk_tokens", "no_text")
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name)]
        if given:
            raise UsageError(f"{self.source} holds images; {', '.join(given)} is about texts.")
