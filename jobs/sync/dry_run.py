"""The dry run of a sync: it counts the due rows and measures the model's speed on a sample of them."""

import time
from typing import Any

import numpy as np

from actors.engine.engine import Engine
from actors.engine.precision import load_with_precision
from actors.images.pixels import Preprocess
from actors.worker.exchange import PIXELS
from jobs.sync.due import Images, due_by_piece, read_due
from jobs.sync.errors import OtherSpace
from jobs.sync.planning import Planner
from jobs.sync.summary import DryRunSummary
from schemas.plan import EMBED
from sources.rows import Piece, Source

SAMPLE_ROWS = 64
WARM_UP_ROWS = 4


def dry_run(planner: Planner) -> DryRunSummary:
    """Plan, and measure the model's speed in this process on a sample of the due rows; write nothing."""
    config, model = planner.config, planner.model
    ledger = planner.scan_source()
    ledger.open(config.uri, config.store)
    try:
        table = planner.table.open()
    except OtherSpace:
        if not config.replace:
            raise
        table = None  # all of it will be embedded
    _, plan = planner.compare(table, ledger, defer=True)
    due = plan.due[plan.due["action"] == EMBED]
    sample = sample_due(planner.source, planner.pieces, due, SAMPLE_ROWS, model.preprocess)
    tokens_a_row, rate = 0.0, 0.0
    if sample:
        device = "cpu" if config.device == "auto" else config.device
        encoder, _ = load_with_precision(model, device, None, config.precision, sample)
        engine = Engine(encoder)
        engine.encode(sample[:WARM_UP_ROWS])  # pays for what later calls do not
        started = time.monotonic()
        encoded = engine.encode(sample)
        rate = len(sample) / (time.monotonic() - started)
        tokens_a_row = float(encoded.n_tokens.mean())
    return DryRunSummary(
        **vars(ledger.counts),
        rows_to_embed=len(due),
        tokens_to_embed=round(len(due) * tokens_a_row),
        seconds_expected=round(len(due) / rate, 1) if rate else 0.0,
        rows_per_second=round(rate, 1),
        files_left_out=planner.source.left_out(),
        warnings=planner.warnings,
        templates=list(model.templates),
    )


def sample_due(
    source: Source, pieces: list[Piece], due: np.ndarray, n: int, preprocess: Preprocess | None
) -> list[Any]:
    """Sample of at most n due rows, spread evenly over all of them: texts, or pixels of images.

    Args:
        source: where the rows are.
        pieces: of the source.
        due: (k,) DUE, rows that a model has to embed.
        n: size of the sample, at most.
        preprocess: of a model of images; None for texts.

    Returns:
        Strings, or arrays of uint8 in the shape of the preprocess.
    """
    sample: list[Any] = []
    if len(due) == 0:
        return sample
    chosen = due[np.linspace(0, len(due) - 1, min(n, len(due))).astype(int)]
    images = None if preprocess is None else Images(preprocess)
    ordered = np.sort(chosen, order=["group", "file", "position"])
    for piece, part in due_by_piece(ordered, pieces):
        for rows in read_due(source, pieces[piece], part, [], {}, images):
            if preprocess is None:
                sample += [text for text in rows["text"].to_pylist() if text]
                continue
            images_bytes = [data for data in rows[PIXELS].to_pylist() if data is not None]
            sample += [np.frombuffer(d, np.uint8).reshape(preprocess.shape) for d in images_bytes]
    return sample
