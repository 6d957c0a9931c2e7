"""Events of a run, written while it works: to a log file, and on a cluster to Prometheus.

A line of the log is JSON with `time`, `run`, `table` and `event` (plan, wave, replan, end). Metrics go
through Ray's own endpoint, which every node of a cluster has; `deploy/grafana.json` shows them. They
have the tags `table` and `model`, and arrive a few seconds late because Ray collects them.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import IO, Any

from schemas.delta.store import now

COMMIT_SECONDS = (0.05, 0.2, 1.0, 5.0, 20.0, 60.0)  # bounds of the histogram's bins
MOST_REASON = 60  # characters: a reason is a label of a time series


class Events:
    """Writes the events of one run to its log and its metrics."""

    def __init__(
        self, run: str, table: str, model: str, log: IO[str] | None, metrics: bool
    ) -> None:
        """Prepare the metrics.

        Args:
            run: id of the run.
            table: address of the table.
            model: name of the model.
            log: an open file; None if no log is written.
            metrics: True if metrics are written, which needs Ray.
        """
        self.run, self.table, self.log = run, table, log
        self._tags = {"table": table, "model": model}
        self._meters = _meters() if metrics else {}

    def tell(self, event: str, **fields: Any) -> None:  # noqa: ANN401 values that JSON can hold
        """Write an event to the log, as a line of JSON with these fields."""
        if self.log is not None:
            line = {"time": now().isoformat(), "run": self.run, "table": self.table, "event": event}
            self.log.write(json.dumps(line | fields) + "\n")
            self.log.flush()

    def plan(self, n_due: int, **counts: int) -> None:
        """Write the number of due rows, after a plan."""
        self.tell("plan", due=n_due, **counts)
        self._set("queue", n_due)

    def report(self, report: Mapping[str, Any], n_left: int) -> None:
        """Write the counts of a worker's report, and the number of due rows that are left."""
        self._add("rows", report["n_due"] - len(report["failures"]))
        self._add("tokens", report["n_tokens"])
        for failure in report["failures"]:
            reason = failure["reason"].partition(":")[0][:MOST_REASON]
            self._add("failures", 1, stage=failure["stage"], reason=reason)
        self._set("queue", n_left)

    def starved_share(self, share: float) -> None:
        """Write the share of the time, in [0, 1], in which models waited for rows."""
        self._set("starved_share", share)

    def wave(self, seconds: float, n_rows: int, version: int) -> None:
        """Write that a wave was committed: its duration, its rows and the table's new version."""
        self.tell("wave", rows=n_rows, seconds=round(seconds, 3), version=version)
        if self._meters:
            self._meters["commit_seconds"].observe(seconds, self._tags)

    def _add(self, name: str, n: float, **tags: str) -> None:
        if self._meters and n:
            self._meters[name].inc(n, self._tags | tags)

    def _set(self, name: str, value: float) -> None:
        if self._meters:
            self._meters[name].set(value, self._tags)


@contextlib.contextmanager
def open_log(path: str) -> Iterator[IO[str] | None]:
    """Open a file to append lines to; None if the path is empty."""
    if not path:
        yield None
        return
    with open(path, "a", encoding="utf-8") as file:
        yield file


def _meters() -> dict[str, Any]:
    """Ray's metrics of a run by name; they export nothing until they have a value."""
    from ray.util.metrics import Counter, Gauge, Histogram

    tags = ("table", "model")
    failed = (*tags, "stage", "reason")
    return {
        "rows": Counter("embatch_rows", "Rows that workers have embedded", tags),
        "tokens": Counter("embatch_tokens", "Tokens, or patches of images", tags),
        "failures": Counter("embatch_failures", "Rows that workers could not embed", failed),
        "queue": Gauge("embatch_queue_rows", "Rows that are due and not embedded yet", tags),
        "starved_share": Gauge(
            "embatch_starved_share", "Share of the time in which models waited", tags
        ),
        "commit_seconds": Histogram(
            "embatch_commit_seconds", "Of a commit to the table", list(COMMIT_SECONDS), tags
        ),
    }
