"""Bring a table of vectors in line with a source: embed rows that are new or changed, and no others.

    embatch embed articles.csv tables/articles --model all-MiniLM-L6-v2 --text-column title,body
    embatch embed s3://bucket/corpus s3://bucket/table --model use-multilingual-v3 --prune
    embatch embed photos/ tables/photos --model clip-ViT-B-32 --label-from-folder
    embatch embed --labels classes.txt tables/classes --model clip-ViT-B-32

SOURCE holds texts or images: files, folders, Delta tables, WebDataset tars or Hugging Face datasets. The
command writes the Delta table TABLE and, for rows that cannot be embedded, TABLE.failures. Run it again after
a crash or a change: it makes a plan first and embeds only rows that are new or changed.
"""

import os
import sys
import time
import uuid

from actors.engine.precision import HostedModel
from jobs.runtime.command import parse, user_errors
from jobs.runtime.ray_cluster import cluster
from jobs.runtime.signals import Stopped, StopSignal
from jobs.sync.config import EmbedConfig
from jobs.sync.dry_run import dry_run
from jobs.sync.events import Events, open_log
from jobs.sync.inputs import model_of, source_of
from jobs.sync.loop import Sync
from jobs.sync.model_switch import replace_all
from jobs.sync.planning import Planner
from jobs.sync.summary import DryRunSummary, EmbedSummary, TooManyFailures


def run(
    config: EmbedConfig,
    model: HostedModel | None = None,
    *,
    wave_seconds: float = 30.0,
    claims: bool = True,
    stop: StopSignal | None = None,
) -> EmbedSummary | DryRunSummary:
    """Sync a table with a source.

    Args:
        config: options of the run.
        model: model to use in place of the one that `config.model` names.
        wave_seconds: time between two commits.
        claims: True if the run claims the table; else only the store's fence protects the table.
        stop: signals of the command that this run is a part of; None makes its own.

    Raises:
        SourceError, ModelError, StoreError, TableBusy, SyncError: with messages for the user.
        Stopped: SIGINT or SIGTERM came.
    """
    stop = stop or StopSignal()

    def sync(config: EmbedConfig) -> EmbedSummary | DryRunSummary:
        return _sync(config, model, stop, wave_seconds=wave_seconds, claims=claims)

    with stop.watched():
        return replace_all(config, sync) if config.replace else sync(config)


def _sync(
    config: EmbedConfig,
    model: HostedModel | None,
    stop: StopSignal,
    *,
    wave_seconds: float,
    claims: bool,
) -> EmbedSummary | DryRunSummary:
    began = time.monotonic()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    config.refuse_nesting()
    model = model_of(config, "text") if config.labels and model is None else model
    source = source_of(config, model.templates if model else ())
    model = model or model_of(config, source.options.modality)
    if source.options.modality == "image":
        config.refuse_text_options()
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    with (
        open_log(config.log) as log,
        cluster(config.address or None, verbose=config.verbose) as ray_cluster,
    ):
        planner = Planner(source, model, config, run_id, ray_cluster, stop.check, claims=claims)
        if config.dry_run:
            return dry_run(planner)
        metrics = ray_cluster.address is not None
        events = Events(run_id, config.uri, model.name, log, metrics=metrics)
        sync = Sync(planner, stop, events, wave_seconds=wave_seconds, began=began)
        summary = sync.run()
    if sync.complaint:
        raise TooManyFailures(sync.complaint, summary)
    return summary


def _print(summary: EmbedSummary | DryRunSummary, config: EmbedConfig) -> None:
    print(summary.json() if config.json else summary.text(), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    config = parse(EmbedConfig, "embed", __doc__, arguments)
    with user_errors(hides_noise=not config.verbose) as outcome:
        try:
            _print(run(config), config)
        except TooManyFailures as failed:
            _print(failed.summary, config)
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
