"""Check what a refresh needs before it runs: file, sources, models, tables, disk, devices, Ray.

    embatch doctor corpus.toml

Nothing is embedded and no file is left behind. The exit code is 1 if a refresh would fail.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from actors.engine.hardware import cores
from jobs.refreshing.corpus_file import Corpus, Step, read_corpus
from jobs.runtime.command import (
    USER_ERRORS,
    Flag,
    error_message,
    parse,
    storage_options,
    table_uri,
    user_errors,
)
from jobs.runtime.ray_cluster import cluster
from jobs.sync.config import EmbedConfig
from jobs.sync.inputs import model_of, source_of
from jobs.sync.summary import left_out_line
from schemas.delta.places import filesystem
from schemas.delta.store import Table
from schemas.tables.embeddings import Fingerprint

FILES = ("qrels", "scores", "analogies", "word_pairs", "images", "word_weights")
DRAWN = {"picture": "matplotlib", "history": "plotly", "report": "plotly"}
FREE_SHARE = 2.0  # a rewrite of all tables needs room for both versions
OK, WARNING, WRONG = "ok", "warning", "WRONG"


@dataclass(frozen=True)
class DoctorConfig:
    """The file to check.

    Attributes:
        corpus: file that declares sources, tables and follow-ups
        json: print the findings as one line of JSON, the last on stdout
    """

    corpus: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS.toml")]
    json: Flag = False


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        state: ok, warning or WRONG.
        what: step, folder or file that was checked.
        told: a sentence about it.
    """

    state: str
    what: str
    told: str


def run(config: DoctorConfig) -> list[Finding]:
    """Make all checks, also after one of them has failed.

    Raises:
        ValueError: the file is no corpus.toml; the message names the section.
        OSError: the file cannot be read.
    """
    corpus = read_corpus(config.corpus)
    with contextlib.chdir(corpus.path.parent):
        findings = [Finding(OK, str(config.corpus), f"{len(corpus.steps)} steps")]
        for step in corpus.steps:
            checks = _check_embed(step) if step.command == "embed" else _check_follow(corpus, step)
            findings += _findings(str(step), checks)
        findings += _findings(corpus.tables, _check_tables(corpus))
        findings += _findings("machine", _check_machine(corpus))
        findings += _findings("drawing", _check_drawing(corpus))
    return findings


Checks = Iterator[tuple[str, str]]  # a state, and a sentence about what was checked


def _findings(what: str, checks: Checks) -> list[Finding]:
    """Findings of some checks; if an error ends the checks, it is the last finding."""
    findings = []
    try:
        for state, sentence in checks:
            findings.append(Finding(state, what, sentence))
    except USER_ERRORS as error:
        findings.append(Finding(WRONG, what, error_message(error)))
    return findings


def _check_embed(step: Step) -> Checks:
    """Check source, model and table of a step of `embed`."""
    config: EmbedConfig = step.config
    source = source_of(config)
    pieces = source.pieces()
    n_bytes = sum(piece.size_bytes for piece in pieces)
    yield (
        OK,
        f"{config.source}: {len(pieces):,} pieces, {n_bytes / 1e6:,.1f} MB of {source.options.modality}s",
    )
    for path, reason in source.unlisted():
        yield WARNING, f"{path} cannot be listed: {reason}"
    for remark in source.remarks():
        yield WARNING, remark
    for line in left_out_line(source.left_out()):
        yield OK, line.strip()
    model = model_of(config, source.options.modality)
    yield OK, f"{model.name}: {model.dim} dimensions, {model.size_bytes / 1e6:,.0f} MB of weights"
    table = Table.open(table_uri(step.output), storage_options(config.storage_option))
    if table is None:
        yield OK, "a new table"
        return
    fingerprint = Fingerprint.of(table.schema)
    n_rows = sum(file.n_rows for file in table.files())
    if fingerprint is None:
        yield (
            WRONG,
            f"{table.uri} is a table, but not one of embeddings. Give the section another name.",
        )
    elif fingerprint.comparison_key != (model.space, model.dim, bool(config.chunk_tokens)):
        made_by = fingerprint.model
        yield WARNING, f"{n_rows:,} rows of {made_by} will be embedded anew beside the table"
    else:
        yield OK, f"a table of {n_rows:,} rows, version {table.version}"


def _check_follow(corpus: Corpus, step: Step) -> Checks:
    """Check the tables and files that a follow-up reads."""
    made = {maker.output for maker in corpus.steps}
    options = storage_options(corpus.storage_option)
    for place in step.inputs:
        if place not in made and Table.open(table_uri(place), options) is None:
            yield WRONG, f"there is no table at {place}, and no section makes it"
    for name in FILES:
        file = getattr(step.config, name, "")
        if file and not os.path.exists(file):
            yield WRONG, f"{name}: there is no file {file}"
    yield OK, f"reads {', '.join(step.inputs)}"


def _check_tables(corpus: Corpus) -> Checks:
    """Check that the folder of tables can be written, and that the disk has room."""
    uri = table_uri(corpus.tables)
    if "://" not in uri:
        folder = next(path for path in [Path(uri), *Path(uri).parents] if path.exists())
        if not os.access(folder, os.W_OK) or not folder.is_dir():
            yield WRONG, f"nobody may write in {folder}"
            return
        free, used = shutil.disk_usage(folder).free, _size(Path(uri))
        state = OK if free > FREE_SHARE * used else WARNING
        yield state, f"{free / 1e9:,.1f} GB are free, tables have {used / 1e9:,.1f} GB"
        return
    fs, name = filesystem(uri, storage_options(corpus.storage_option)), f"doctor-{uuid.uuid4().hex}"
    with fs.open_output_stream(name) as sink:
        sink.write(b"written to see whether that is allowed")
    fs.delete_file(name)
    yield OK, "files can be written and deleted"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _check_machine(corpus: Corpus) -> Checks:
    """Check the GPUs, and the Ray clusters whose addresses are given."""
    import torch

    wanted = {getattr(step.config, "device", "auto") for step in corpus.steps}
    addresses = {getattr(step.config, "address", "") for step in corpus.steps}
    addresses.add(os.environ.get("RAY_ADDRESS", ""))
    n_gpus: Any = torch.cuda.device_count()
    yield OK, f"{cores()} cores and {n_gpus} GPUs here"
    for address in sorted(filter(None, addresses)):
        with cluster(address, verbose=False) as ray:
            nodes = ray.nodes()
        n_gpus += sum(node.get("GPU", 0) for node in nodes)
        yield OK, f"Ray at {address}: {len(nodes)} nodes"
    if "cuda" in wanted and not n_gpus:
        yield WRONG, 'device = "cuda", and there is no GPU'


def _check_drawing(corpus: Corpus) -> Checks:
    """Check that the packages for pages and pictures are installed."""
    steps = corpus.steps
    wanted = {
        "picture": any(getattr(step.config, "picture", "") for step in steps),
        "history": bool(corpus.history),
        "report": any(step.command == "report" for step in steps),
    }
    for name, package in DRAWN.items():
        if wanted[name] and importlib.util.find_spec(package) is None:
            yield WRONG, f"{name} needs {package}: pip install -e '.[plot]'"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    config = parse(DoctorConfig, "doctor", __doc__, arguments)
    with user_errors() as outcome:
        findings = run(config)
        if config.json:
            print(json.dumps([vars(finding) for finding in findings]), flush=True)
        else:
            for finding in findings:
                print(f"{finding.state:<8} {finding.what}: {finding.told}")
        outcome.exit_code = int(any(finding.state == WRONG for finding in findings))
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
