"""Bring a table of vectors in line with a source: embed what is new or changed, and nothing else.

    embatch embed articles.csv tables/articles --model all-MiniLM-L6-v2 --text-column title,body
    embatch embed s3://bucket/corpus s3://bucket/table --model use-multilingual-v3 --prune
    embatch embed photos/ tables/photos --model clip-ViT-B-32 --label-from-folder
    embatch embed --labels classes.txt tables/classes --model clip-ViT-B-32

Reads texts or images: files, folders, Delta tables, WebDataset tars or Hugging Face datasets; writes the
Delta table TABLE and, for rows that cannot be embedded, TABLE.failures. Run it again after a crash
or a change: it plans first and pays only for what is due.
"""

import contextlib
import os
import sys
import time
import uuid
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from actors.engine.templates import BARE, templates_of
from jobs.runtime.command import Flag, parse, storage_options, table_uri, user_errors
from jobs.runtime.native_stderr import native_noise_in_a_file
from jobs.runtime.ray_cluster import cluster
from jobs.runtime.signals import Stopped, StopSignal
from jobs.sync.dry_run import dry_run
from jobs.sync.events import Events, open_log
from jobs.sync.loop import Sync
from jobs.sync.planning import SyncModel, SyncOptions, refuse_nesting
from jobs.sync.summary import DryRunSummary, EmbedSummary, TooManyFailures
from schemas.errors import UsageError, without_secrets
from sources.rows import Source, SourceOptions

DRY_RUN_ROWS = 64
Names = Annotated[str, tyro.conf.arg(metavar="A,B", help_behavior_hint="")]
Text = Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
Number = Annotated[int, tyro.conf.arg(metavar="N", help_behavior_hint="")]


@dataclass(frozen=True)
class EmbedConfig:
    """What to embed, with what, and into which table.

    Attributes:
        source: file, glob, folder, URI, Delta table, datasets folder or hub name (owner/name:split)
        table: folder or bucket prefix of the table; made where there is none
        model: a name that `embatch models` lists, a local folder, a hub name, or a file of word vectors
        text_column: columns that make the text, joined by a newline (found by itself where possible)
        image_column: column of images (found by itself, if no text column is named)
        label_from_folder: the folder that an image lies in is its column `label`
        id_column: column of ids (default: the path where a file is one row, else a hash of its text or image)
        columns: other columns to keep (default: all)
        max_chars: cut each text to so many characters
        limit: take only the first rows, to try things out
        delimiter: between the fields of a CSV file
        quote: around fields of a CSV file
        encoding: of CSV, JSON and text files without a byte order mark (default: UTF-8)
        no_header: the first row of a CSV file is data; its columns are column_1, column_2, ...
        lines: each line of a text file is one text
        feeds: SOURCE is a folder of news feeds, CATEGORY/.../FEED-YYYY-MM-DD/hh-mm.txt, whose items are rows
        labels: SOURCE is a file of class names, one a line, or `name: wording`
        template: with --labels, what a name is put into at {}, and a wording that is no sentence; the vectors of several are averaged (default: `a photo of a {}` for names, where the model also embeds images)
        prompt: name of one of the model's prompts (passage, query), or the words to put before a text
        max_tokens: cut texts to so many tokens (default: the model's own bound)
        word_weights: how much each word counts: a file of `embatch words weights`
        chunk_tokens: cut documents into passages of so many tokens
        chunk_overlap: tokens that two neighbouring passages share
        prune: remove rows that the source has no longer
        force_prune: remove them even if they are more than a fifth of the table
        replace: embed every row anew, also with another model
        retry_failed: try rows again that failed before
        max_failures: share of the rows tried (of 100 at least) that may fail anew before the run counts as failed
        precision: of the computation; auto is the fastest that leaves the vectors where fp32 has them
        device: where the model runs
        actors: processes that host the model (default: from the machines)
        vector_dtype: float16 rounds vectors, which halves the files
        no_text: leave the text out of a new table
        keep_images: keep the images' bytes in the table, not only their paths
        dry_run: say what would be done and how long it would take; write nothing
        wait: wait while another run writes to the table, instead of leaving
        address: Ray cluster to join (default: RAY_ADDRESS, else a Ray of our own on this machine)
        shared_filesystem: say that all nodes of the cluster see TABLE under its local path
        storage_option: KEY=VALUE for the object store, once for each
        log: file to which a line of JSON is added for each event of the run
        json: print the summary as one line of JSON, the last on stdout
        verbose: show what Ray says
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


def run(
    config: EmbedConfig,
    model: SyncModel | None = None,
    *,
    wave_seconds: float = 30.0,
    claims: bool = True,
    stop: StopSignal | None = None,
) -> EmbedSummary | DryRunSummary:
    """Sync a table with a source.

    Args:
        config: what was asked for.
        model: hosts another model than `config.model` names.
        wave_seconds: time between two commits.
        claims: claim the table; without, the store's fence alone keeps it true.
        stop: of what this run is a part of.

    Raises:
        SourceError, ModelError, StoreError, TableBusy, SyncError: messages for the user.
        Stopped: SIGINT or SIGTERM.
    """
    started = time.monotonic()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    table = table_uri(config.table)
    refuse_nesting(config.source, table)
    model = model_of(config, "text") if config.labels and model is None else model
    source = source_of(config, model.templates if model else ())  # what suits the model
    model = model or model_of(config, source.options.modality)
    if source.options.modality == "image":
        _refuse_text_options(config)
    options = SyncOptions(
        table=table,
        storage_options=storage_options(config.storage_option),
        source_name=without_secrets(source.options.address),
        given_source=without_secrets(config.source),
        given_model=os.path.abspath(config.model) if os.path.exists(config.model) else config.model,
        word_weights=os.path.abspath(config.word_weights) if config.word_weights else "",
        prune=config.prune,
        force_prune=config.force_prune,
        replace=config.replace,
        retry_failed=config.retry_failed,
        max_failures=config.max_failures,
        limit=config.limit or None,
        with_text=not config.no_text,
        keep_images=config.keep_images,
        half=config.vector_dtype == "float16",
        chunk_tokens=config.chunk_tokens,
        chunk_overlap=config.chunk_overlap,
        device=config.device,
        precision=config.precision,
        actors=config.actors or None,
        wait=config.wait,
        quiet=config.json and not sys.stderr.isatty(),
        wave_seconds=wave_seconds,
        claims=claims,
        shared_filesystem=config.shared_filesystem,
    )
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    stop = stop or StopSignal()
    with (
        stop.watched(),
        open_log(config.log) as log,
        cluster(config.address or None, verbose=config.verbose) as ray_cluster,
    ):
        events = Events(run_id, table, model.name, log, metrics=ray_cluster.address is not None)
        sync = Sync(source, model, options, run_id, ray_cluster, stop, events)
        if config.dry_run:
            return dry_run(sync.preview(DRY_RUN_ROWS), model, config.device, config.precision)
        outcome = sync.run()
    summary = EmbedSummary.of(
        outcome,
        table=config.table,
        model=model.name,
        templates=model.templates,
        run=run_id,
        passages=bool(config.chunk_tokens),
        seconds=time.monotonic() - started,
    )
    if outcome.complaint:
        raise TooManyFailures(outcome.complaint, summary)
    return summary


def source_of(config: EmbedConfig, templates: tuple[str, ...] = ()) -> Source:
    """What SOURCE is; names of classes are put into the templates, where there are some.

    Raises:
        SourceError: it does not exist, or lacks what was asked for.
    """
    from sources import open_source

    return open_source(
        SourceOptions(
            path=config.source,
            text_column=_names(config.text_column),
            image_column=config.image_column or None,
            label_from_folder=config.label_from_folder,
            id_column=config.id_column or None,
            columns=_names(config.columns) or None,
            max_chars=config.max_chars or None,
            delimiter=config.delimiter,
            quote=config.quote,
            encoding=config.encoding,
            no_header=config.no_header,
            lines=config.lines,
            labels=config.labels,
            feeds=config.feeds,
            templates=templates or BARE,
            templates_asked=bool(config.template),
            storage_options=storage_options(config.storage_option),
        )
    )


def model_of(config: EmbedConfig, modality: str) -> SyncModel:
    """The model that was asked for, to embed "text" or "image", found but not loaded.

    Raises:
        ModelError: it is unknown, or does not embed what the source holds.
    """
    from actors.checkpoints import resolve

    return resolve(
        config.model,
        prompt=config.prompt or None,
        max_tokens=config.max_tokens or None,
        modality=modality,
        labels=config.labels,
        templates=config.template,
        word_weights=config.word_weights,
    )


def _refuse_text_options(config: EmbedConfig) -> None:
    """Options that say nothing of images, where SOURCE holds images."""
    names = ("max_chars", "prompt", "max_tokens", "chunk_tokens", "no_text")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(config, name)]
    if given:
        raise UsageError(f"{config.source} holds images; {', '.join(given)} is about texts.")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _tell(summary: EmbedSummary | DryRunSummary, config: EmbedConfig) -> None:
    print(summary.json() if config.json else summary.text(), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print; returns the exit code."""
    config = parse(EmbedConfig, "embed", __doc__, arguments)
    quiet = contextlib.nullcontext() if config.verbose else native_noise_in_a_file()
    with quiet, user_errors() as outcome:
        try:
            _tell(run(config), config)
        except TooManyFailures as failed:
            _tell(failed.summary, config)
            raise
        except Stopped as stopped:
            print(
                f"embatch: {stopped}; what was complete is committed, run again to go on.",
                file=sys.stderr,
            )
            return 128 + stopped.signum
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
