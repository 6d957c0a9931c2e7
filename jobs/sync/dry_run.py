"""What a dry run tells: the plan's counts, and the model's pace on a few of the rows that are due."""

import time
from typing import Any

import numpy as np

from actors.engine.precision import HostedModel
from actors.images.pixels import Preprocess
from actors.worker.exchange import PIXELS
from jobs.sync.due import Images, due_by_piece, read_due
from jobs.sync.summary import DryRunSummary, Preview
from sources.rows import Piece, Source

WARM_UP_ROWS = 4


def sample_due(
    source: Source, pieces: list[Piece], due: np.ndarray, n: int, preprocess: Preprocess | None
) -> list[Any]:
    """Up to n of the due rows, spread evenly: texts, or pixels where there is a preprocess.

    Args:
        source: where the rows are.
        pieces: of the source.
        due: (k,) DUE that a model has to embed.
        n: the most to take.
        preprocess: of a model of images.
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
            pixels = [held for held in rows[PIXELS].to_pylist() if held is not None]
            sample += [np.frombuffer(p, np.uint8).reshape(preprocess.shape) for p in pixels]
    return sample


def dry_run(preview: Preview, model: HostedModel, device: str, precision: str) -> DryRunSummary:
    """The plan's counts with the time that the model, timed in this process, would take."""
    from actors.engine.engine import Engine
    from actors.engine.precision import load_sound

    tokens_a_row, rate = 0.0, 0.0
    if preview.sample:
        device = "cpu" if device == "auto" else device
        encoder, _ = load_sound(model, device, None, precision, preview.sample)
        engine = Engine(encoder)
        engine.encode(preview.sample[:WARM_UP_ROWS])  # pays for what later calls do not
        started = time.monotonic()
        encoded = engine.encode(preview.sample)
        rate = len(preview.sample) / (time.monotonic() - started)
        tokens_a_row = float(encoded.n_tokens.mean())
    n_due = preview.n_to_embed
    return DryRunSummary(
        **vars(preview.counts),
        rows_to_embed=n_due,
        tokens_to_embed=round(n_due * tokens_a_row),
        seconds_expected=round(n_due / rate, 1) if rate else 0.0,
        rows_per_second=round(rate, 1),
        files_left_out=preview.files_left_out,
        warnings=preview.warnings,
        templates=list(model.templates),
    )
