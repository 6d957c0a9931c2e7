"""The summary of a run, as lines for people and as JSON for machines."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jobs.sync.config import EmbedConfig
from jobs.sync.errors import SyncError
from jobs.sync.ledger import LEAST_TRIED, Counts, Ledger
from jobs.sync.tally import Tally

_REASONS_SHOWN = 5
_ENDINGS_SHOWN = 12

ALL_FAILED = (
    "No row could be embedded, and the table is empty. `embatch failures {table}` says why."
)


@dataclass(frozen=True)
class EmbedSummary(Counts):
    """Counts and measurements of a run.

    Attributes:
        seconds: from start to end, the start of Ray included.
        start_seconds: seconds of the embedding stage until the first worker had loaded the model.
        rows_per_second: embedded and replaced rows per second of the rest of the embedding stage.
        n_tokens: number of tokens of texts, or of patches of images.
        n_truncated: number of texts cut at the most tokens that the model reads.
        unknown_share: share of the words without a vector in a model of words.
        n_passages: number of rows written, if documents are cut into passages; else 0.
        precision: number format of the computation; null if no vector was computed.
        token_budget: tokens of a micro-batch, measured on this machine.
        padding_waste: share of the computed tokens that were padding.
        starved_share: share of the rest of the embedding stage in which the models waited: for
            rows, for other workers to start, for commits.
        replans: number of new plans because somebody else wrote to the table.
        failures: number of rows without a vector, by reason.
        files_left_out: number of files that are not read, by ending.
        templates: sentences that class names were put into.
    """

    seconds: float
    start_seconds: float
    rows_per_second: float
    table_version: int
    table: str
    model: str
    run: str
    n_tokens: int
    n_truncated: int
    unknown_share: float
    n_passages: int
    precision: str | None
    token_budget: int
    tokens_per_second: float
    padding_waste: float
    starved_share: float
    waves: int
    replans: int
    failures: dict[str, int]
    files_left_out: dict[str, int]
    warnings: list[str]
    templates: list[str]

    @classmethod
    def of(
        cls,
        ledger: Ledger,
        tally: Tally,
        config: EmbedConfig,
        *,
        seconds: float,
        **known: Any,  # noqa: ANN401 the fields that stand in neither
    ) -> "EmbedSummary":
        """Make the summary of a run.

        Args:
            ledger: of the run, closed.
            tally: of the run.
            config: options of the run.
            seconds: duration of the run.
            known: the fields that none of these has.
        """
        counts = ledger.counts
        embed_seconds = max(tally.embed_seconds - tally.start_seconds, 1e-9)
        return cls(
            **vars(counts),
            **known,
            table=config.table,
            seconds=round(seconds, 3),
            start_seconds=round(tally.start_seconds, 3),
            rows_per_second=round((counts.embedded + counts.replaced) / embed_seconds, 1)
            if tally.embed_seconds
            else 0.0,
            n_tokens=tally.n_tokens,
            n_truncated=tally.n_truncated,
            unknown_share=round(tally.n_unknown / max(tally.n_unknown + tally.n_tokens, 1), 4),
            n_passages=tally.n_rows if config.chunking else 0,
            precision=tally.precision,
            token_budget=tally.token_budget,
            tokens_per_second=round(tally.n_tokens / embed_seconds, 1),
            padding_waste=round(tally.padding_waste, 4),
            starved_share=round(tally.starved_share(embed_seconds), 4),
            waves=tally.n_waves,
            replans=tally.n_replans,
            failures=ledger.reasons,
        )

    def text(self) -> str:
        """Lines of text for people."""
        lines = self.lines() + left_out_line(self.files_left_out)
        if self.n_passages:
            lines.append(f"{self.n_passages:>12,}  passages written")
        if self.n_truncated:
            lines.append(
                f"{self.n_truncated:>12,}  texts were longer than the model reads "
                "(--chunk-tokens cuts them into passages)"
            )
        if self.unknown_share:
            lines.append(f"{self.unknown_share:>12.1%}  of the words have no vector in this model")
        lines += _templates_line(self.templates)
        rate = f", {self.rows_per_second:,.0f} rows/s while embedding" if self.n_tokens else ""
        lines.append(
            f"\n{self.table} is at version {self.table_version}: {self.model}, "
            f"{self.seconds:.1f} s{rate}."
        )
        if self.precision and self.n_tokens >= self.token_budget:  # less work tells nothing
            lines.append(
                f"{self.precision}, {self.tokens_per_second:,.0f} tokens/s in micro-batches of "
                f"{self.token_budget:,} with {self.padding_waste:.1%} padding; "
                f"{self.starved_share:.0%} of the time the model waited."
            )
        by_number = sorted(self.failures.items(), key=lambda item: -item[1])
        lines += [f"Failed {n:,}: {reason}" for reason, n in by_number[:_REASONS_SHOWN]]
        if self.failures:
            lines.append(f"`embatch failures {self.table}` lists them.")
        return "\n".join(lines + [f"Warning: {warning}" for warning in self.warnings])

    def json(self) -> str:
        """One line of JSON for machines."""
        return json.dumps(asdict(self))


def left_out_line(files: Mapping[str, int]) -> list[str]:
    """One line about the files that are not read; empty if all are."""
    shown = [f"{n:,} {ending}" for ending, n in files.items()]
    kinds = ", ".join(shown[:_ENDINGS_SHOWN]) + (", …" if len(shown) > _ENDINGS_SHOWN else "")
    return [f"{sum(files.values()):>12,}  files left out: {kinds}"] if files else []


def _templates_line(templates: list[str]) -> list[str]:
    return [f"{'':>14}names put into: {' | '.join(templates)}"] if templates else []


def too_many_failures(ledger: Ledger, config: EmbedConfig) -> str:
    """Message that too many rows failed; empty if they did not."""
    if ledger.new_share <= config.max_failures:
        return ""
    return (
        f"{ledger.n_new:,} rows failed that did not before, {ledger.new_share:.1%} of those tried (of "
        f"{LEAST_TRIED} at least) and more than --max-failures {config.max_failures:g}. What was committed "
        f"stays; see `embatch failures {config.uri}`, then fix the source, or raise --max-failures."
    )


class TooManyFailures(SyncError):
    """More rows failed than --max-failures allows; the other rows are committed.

    Attributes:
        summary: of the run.
    """

    def __init__(self, message: str, summary: EmbedSummary) -> None:
        super().__init__(message)
        self.summary = summary


@dataclass(frozen=True)
class DryRunSummary(Counts):
    """Counts of a run that was planned only; tokens and times are estimates from a sample."""

    rows_to_embed: int
    tokens_to_embed: int
    seconds_expected: float
    rows_per_second: float
    files_left_out: dict[str, int]
    warnings: list[str]
    templates: list[str]

    def text(self) -> str:
        """Lines of text for people."""
        lines = self.lines() + left_out_line(self.files_left_out)
        lines += _templates_line(self.templates)
        lines.append(
            f"\nDry run: nothing was written. {self.rows_to_embed:,} rows and about "
            f"{self.tokens_to_embed:,} tokens to embed, about {self.seconds_expected:,.0f} s at "
            f"{self.rows_per_second:,.0f} rows/s (measured on a sample, in one process)."
        )
        return "\n".join(lines + [f"Warning: {warning}" for warning in self.warnings])

    def json(self) -> str:
        """One line of JSON for machines."""
        return json.dumps(asdict(self))
