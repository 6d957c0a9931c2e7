"""Report refreshes: the lines that a refresh prints at its end, and an HTML page of all refreshes."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.delta.store import StoreError
from schemas.tables.refreshes import StepRow

SHOWN = 60  # refreshes on the page; the table holds all
COUNTS = ("new", "changed", "vanished", "failed")
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ text-align: right; padding: .15rem .6rem; border-bottom: 1px solid #8884; white-space: nowrap; }}
td.text {{ white-space: normal; }}
td:first-child, td:nth-child(2), td:nth-child(3), td.text, th:first-child, th:nth-child(2), th:nth-child(3) {{ text-align: left; }}
tr.failed td, tr.skipped td, tr.stopped td {{ color: #c22; }}
tr.current td {{ opacity: .6; }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
{plots}
<h2>Steps</h2>
<table><tr><th>refresh</th><th>step</th><th>state</th><th>new</th><th>changed</th><th>vanished</th><th>failed</th>
<th>seconds</th><th>rows/s</th><th>mean moved</th><th>other neighbours</th><th class="text"></th></tr>
{rows}
</table></body></html>
"""


@dataclass(frozen=True)
class RefreshSummary:
    """Results of one refresh.

    Attributes:
        refresh: id of the refresh.
        seconds: its duration.
        steps: a row about each step.
        history: file of the page of all refreshes; None if there is none.
    """

    refresh: str
    seconds: float
    steps: list[StepRow]
    history: str | None

    @property
    def failed(self) -> bool:
        """True if a step failed, or was skipped because another one did."""
        return any(step.state in ("failed", "skipped") for step in self.steps)

    def text(self) -> str:
        """Lines for people: a table of the steps, and remarks."""
        width = max(len(step.title) for step in self.steps)
        lines = [
            f"{'step':<{width}}  {'state':<8} {'new':>9} {'changed':>9} {'vanished':>9}"
            f" {'failed':>9} {'seconds':>9} {'rows/s':>9}"
        ]
        lines += [_line(step, width) for step in self.steps]
        remarks = [f"{step.title}: {text}" for step in self.steps for text in _remarks(step)]
        lines += ["", *remarks] if remarks else []
        page = f" {self.history} shows all refreshes." if self.history else ""
        return "\n".join([*lines, f"\nRefresh {self.refresh}, {self.seconds:.1f} s.{page}"])

    def as_json(self) -> str:
        """One line of JSON for machines."""
        steps = [{k: v for k, v in vars(step).items() if v is not None} for step in self.steps]
        summary = {"refresh": self.refresh, "seconds": round(self.seconds, 3)}
        summary |= {"failed": self.failed, "steps": steps, "history": self.history}
        return json.dumps(summary, default=str)


def _line(step: StepRow, width: int) -> str:
    counts = " ".join(f"{_number(getattr(step, name)):>9}" for name in COUNTS)
    rate = _number(step.rows_per_second)
    line = f"{step.title:<{width}}  {step.state:<8} {counts} {step.seconds:>9.1f} {rate:>9}"
    return line.rstrip()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _remarks(step: StepRow) -> list[str]:
    """Sentences about a step: the drift of its table, new failures, and its message."""
    drift = []
    if step.centroid_shift is not None:
        drift.append(f"the mean vector moved by {step.centroid_shift:.4f}")
    if step.neighbours_changed is not None:
        drift.append(f"{step.neighbours_changed:.1%} of the rows have other neighbours")
    if step.new_failures:
        drift.append(f"{step.new_failures:,} new failures")
    remarks = [f"{', '.join(drift)}."] if drift else []
    return remarks + ([step.message] if step.message else [])


def write_page(steps: Sequence[StepRow], file: str, title: str) -> None:
    """Write the HTML page of the newest refreshes.

    Args:
        steps: of all refreshes, oldest first.
        file: path of the page; an old page is replaced.
        title: name of the corpus.

    Raises:
        StoreError: plotly is not installed.
    """
    names = list(dict.fromkeys(step.refresh for step in steps))[-SHOWN:]
    shown = [step for step in steps if step.refresh in set(names)]
    rows = "\n".join(_row(step) for step in reversed(shown))
    n_bad = len({step.refresh for step in shown if step.state in ("failed", "skipped")})
    summary = f"The last {len(names)} refreshes; {n_bad} of them with a step that failed."
    page = PAGE.format(title=html.escape(title), summary=summary, plots=_plots(shown), rows=rows)
    Path(file).write_text(page, encoding="utf-8")


def _plots(steps: Sequence[StepRow]) -> str:
    """HTML of three plots over refreshes: seconds of each step, rows that changed, and drift."""
    try:
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise StoreError(
            "The page of refreshes is drawn by plotly: pip install -e '.[plot]'"
        ) from error
    titles = ("Seconds", "Rows that changed", "Drift")
    figure = make_subplots(rows=3, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.07)
    for title in dict.fromkeys(step.title for step in steps):
        mine = [step for step in steps if step.title == title]
        times = [f"{step.started:%m-%d %H:%M:%S}" for step in mine]
        seconds = [step.seconds for step in mine]
        figure.add_trace(go.Bar(x=times, y=seconds, name=html.escape(title)), row=1, col=1)
        for name, row in (
            *((count, 2) for count in COUNTS),
            ("centroid_shift", 3),
            ("neighbours_changed", 3),
        ):
            values = [getattr(step, name) for step in mine]
            if any(values):
                label = html.escape(f"{title}: {name.replace('_', ' ')}")
                line = go.Scatter(x=times, y=values, name=label, mode="lines+markers")
                figure.add_trace(line, row=row, col=1)
    figure.update_xaxes(type="category", showticklabels=True, nticks=12)
    figure.update_layout(barmode="stack", height=900, template="plotly_white", margin={"t": 40})
    drawn: str = figure.to_html(full_html=False, include_plotlyjs=True)
    return drawn


def _row(step: StepRow) -> str:
    share = "" if step.neighbours_changed is None else f"{step.neighbours_changed:.1%}"
    moved = "" if step.centroid_shift is None else f"{step.centroid_shift:.4f}"
    cells = [f"{step.started:%Y-%m-%d %H:%M:%S}", step.title, step.state]
    cells += [_number(getattr(step, name)) for name in COUNTS]
    cells += [f"{step.seconds:.1f}", _number(step.rows_per_second), moved, share]
    row = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    message = html.escape(step.message or "")
    return f'<tr class="{step.state}">{row}<td class="text">{message}</td></tr>'
