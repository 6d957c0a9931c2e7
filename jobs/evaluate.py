"""Measure how good a table's vectors are: at retrieval, at similarity of pairs, at separating labels.

    embatch evaluate tables/papers --queries tables/questions --qrels qrels.tsv
    embatch evaluate tables/photos --queries tables/captions --qrels pairs.csv --picture pairs.png
    embatch evaluate tables/sentences --scores likeness.tsv
    embatch evaluate tables/articles --label-column topic
    embatch evaluate tables/articles --compare tables/articles-other-model
    embatch evaluate tables/words --analogies questions-words.txt --word-pairs wordsim353.tsv

Several measures may be asked for at once. Judgements are BEIR's tsv, TREC's qrels, or a pair of ids a line;
queries without judgements are left out and counted. With --json all numbers are one line.
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tyro
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split

from jobs.analysis.judgements import read_judgements
from jobs.analysis.metrics import vote
from jobs.analysis.nearest import nearest
from jobs.analysis.plots import check_picture, draw_pairs
from jobs.analysis.retrieval import known_judgements, random_similarities, rank_queries
from jobs.analysis.vectors import Vectors, labels_of, open_vectors, read_vectors, refuse_two_spaces
from jobs.runtime.command import TableOptions, run_command, storage_options
from jobs.word_vectors.benchmarks import analogies, word_pairs
from jobs.word_vectors.table import WordTable
from schemas.delta.store import StoreError, Table
from schemas.errors import UsageError
from sources.rows import SourceError

K = 10
TEST_SHARE, SEED = 0.2, 0
Optional = tyro.conf.arg(metavar="TABLE", help_behavior_hint="")
File = tyro.conf.arg(metavar="FILE", help_behavior_hint="")


@dataclass(frozen=True)
class EvaluateConfig(TableOptions):
    """The table to evaluate, and the measures.

    Attributes:
        queries: table of queries, of the same space (with --qrels; default: the table itself)
        qrels: file that says which documents are relevant to which query
        scores: file of pairs of ids and how alike people found them
        analogies: for a table of words: file of four words a line under sections (questions-words.txt)
        word_pairs: for a table of words: file of two words and how alike people found them (WordSim-353, SimLex-999)
        label_column: column of labels that neighbours, and a logistic regression, are to predict
        compare: table of the same rows by another model
        compare_queries: table of the same queries by the other model
        picture: file for a picture of similarities: of pairs that belong together, and of other pairs
    """

    queries: Annotated[str, Optional] = ""
    qrels: Annotated[str, File] = ""
    scores: Annotated[str, File] = ""
    analogies: Annotated[str, File] = ""
    word_pairs: Annotated[str, File] = ""
    label_column: Annotated[str, tyro.conf.arg(metavar="COLUMN", help_behavior_hint="")] = ""
    compare: Annotated[str, Optional] = ""
    compare_queries: Annotated[str, Optional] = ""
    picture: Annotated[str, File] = ""

    def __post_init__(self) -> None:
        kinds = (self.qrels, self.scores, self.label_column, self.compare)
        if not any((*kinds, self.analogies, self.word_pairs)):
            raise UsageError(
                "Say what to evaluate: --qrels, --scores, --label-column, --compare, --analogies or"
                " --word-pairs."
            )
        if self.queries and not self.qrels:
            raise UsageError("--queries needs --qrels, which says what belongs to them.")
        if self.compare_queries and not (self.compare and self.queries):
            raise UsageError("--compare-queries goes with --compare and --queries.")
        if self.compare and self.queries and not self.compare_queries:
            raise UsageError("Add --compare-queries: the queries by the other model.")
        if self.picture and not self.qrels:
            raise UsageError("--picture shows pairs that belong together. Add --qrels.")
        check_picture(self.picture)


@dataclass
class Evaluation:
    """Measures of an evaluation, and counts of the rows they rest on.

    Attributes:
        measures: by name, such as `ndcg@10`; those of the compared table begin with `other:`.
        counts: numbers of rows, queries and pairs, and of those that were left out.
    """

    measures: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Compute the measures that the options ask for.

    Returns:
        Measures and counts in one dict.

    Raises:
        StoreError: a table is missing, empty, or of another space.
        SourceError: a file of judgements cannot be read, or names no row of the table.
    """
    results = Evaluation()
    words = None
    if config.analogies or config.word_pairs:
        words = WordTable(config.table, storage_options(config.storage_option))
    table, base = _read(config.table, config)
    if config.qrels:
        _retrieval(config, base, results)
    if config.scores:
        _similarity(config, base, results)
    if config.label_column:
        _labels(config, table, base, results)
    if config.compare:
        _overlap(config, base, results)
    if words is not None:
        _words(config, words, results)
    rounded = {name: round(float(value), 6) for name, value in results.measures.items()}
    return rounded | results.counts


def _read(place: str, config: EvaluateConfig, like: str = "") -> tuple[Table, Vectors]:
    """Open a table and read its vectors, which must be of the same space as those of the table `like`."""
    options = storage_options(config.storage_option)
    table, fingerprint = open_vectors(place, options)
    if like:
        refuse_two_spaces(like, open_vectors(like, options)[1], place, fingerprint)
    vectors = read_vectors(table, fingerprint.dim)
    if not len(vectors.ids):
        raise StoreError(f"{place} holds no rows.")
    return table, vectors


# Retrieval


def _retrieval(config: EvaluateConfig, base: Vectors, results: Evaluation) -> None:
    """Add measures of retrieval, also by the compared model."""
    queries = _read(config.queries, config, config.table)[1] if config.queries else base
    qrels, counts = known_judgements(read_judgements(config.qrels), base, queries)
    other = other_queries = None
    if config.compare:
        other = other_queries = _read(config.compare, config)[1]
        if config.queries:
            other_queries = _read(config.compare_queries, config, config.compare)[1]
        qrels, _ = known_judgements(qrels, other, other_queries)  # judgements that both know
        counts["queries"] = len(qrels)
    measures, pairs = rank_queries(base, queries, qrels)
    results.counts |= counts | {"in_top_5": int(measures["hit@5"].sum())}
    results.measures |= {name: values.mean() for name, values in measures.items()}
    if len(pairs):
        matched = np.einsum("ij,ij->i", queries.vectors[pairs[:, 0]], base.vectors[pairs[:, 1]])
        unmatched = random_similarities(base, queries, pairs)
        results.measures |= {"matched": matched.mean(), "unmatched": unmatched.mean()}
        if config.picture:
            draw_pairs(matched, unmatched, config.picture)
    if other is not None and other_queries is not None:
        theirs, _ = rank_queries(other, other_queries, qrels)
        results.measures |= {f"other:{name}": values.mean() for name, values in theirs.items()}
        better = measures["ndcg@10"] - theirs["ndcg@10"]
        results.counts |= {
            "queries_better": int((better > 0).sum()),
            "queries_worse": int((better < 0).sum()),
        }


# Similarity of pairs, labels, another model


def _similarity(config: EvaluateConfig, base: Vectors, results: Evaluation) -> None:
    """Add correlations of cosines with how alike people found pairs of rows."""
    judged = read_judgements(config.scores)
    triples = [(a, b, score) for a, row in judged.items() for b, score in row.items()]
    first, second = (
        pc.fill_null(pc.index_in(pa.array(names), value_set=base.ids), -1).to_numpy()
        for names in ([t[0] for t in triples], [t[1] for t in triples])
    )
    known = (first >= 0) & (second >= 0)
    results.counts |= {"pairs": int(known.sum()), "unknown_pairs": int((~known).sum())}
    if known.sum() < 2:
        raise SourceError(
            f"{config.scores} names {known.sum()} pairs of rows of {config.table}, expected two or more;"
            f" its first pair is {triples[0][:2]}, the table holds {base.ids[0].as_py()!r}."
        )
    scores = np.array([t[2] for t in triples])[known]
    cosines = np.einsum("ij,ij->i", base.vectors[first[known]], base.vectors[second[known]])
    results.measures["spearman"] = spearmanr(cosines, scores).statistic
    results.measures["pearson"] = pearsonr(cosines, scores).statistic


def _labels(config: EvaluateConfig, table: Table, base: Vectors, results: Evaluation) -> None:
    """Add accuracies of neighbours' votes and of a logistic regression at predicting labels."""
    name = config.label_column
    if name not in table.schema.names:
        raise SourceError(
            f"{config.table} has no column {name!r}. It has: {', '.join(table.schema.names)}."
        )
    values = labels_of(table, name, base.ids)
    known = values.is_valid().to_numpy(zero_copy_only=False)
    vectors = base.vectors[known]
    names, labels = np.unique(
        values.drop_null().to_numpy(zero_copy_only=False).astype(str), return_inverse=True
    )
    n_each = np.bincount(labels)
    results.counts |= {
        "rows": len(labels),
        "labels": len(names),
        "rows_without_label": int((~known).sum()),
    }
    if len(names) < 2:
        raise SourceError(f"{name!r} has {len(names)} values, expected two or more.")
    votes = vote(labels, nearest(vectors, K).indices)
    results.measures[f"knn_accuracy@{K}"] = accuracy_score(labels, votes)
    if n_each.min() < 2 or round(len(labels) * TEST_SHARE) < len(names):
        results.counts["too_few_rows_for_a_probe"] = 1
        return
    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SHARE, random_state=SEED, stratify=labels
    )
    probe = LogisticRegression(C=10, max_iter=1000).fit(vectors[train], labels[train])
    predicted = probe.predict(vectors[test])
    results.measures["probe_accuracy"] = accuracy_score(labels[test], predicted)
    results.measures["probe_macro_f1"] = f1_score(labels[test], predicted, average="macro")


def _words(config: EvaluateConfig, words: WordTable, results: Evaluation) -> None:
    """Add measures of a table of words: analogies, and correlations of pairs."""
    figures: dict[str, Any] = {}
    if config.analogies:
        figures |= analogies(words, config.analogies, quiet=config.json)
    if config.word_pairs:
        figures |= word_pairs(words, config.word_pairs)
    for name, value in figures.items():
        (results.measures if isinstance(value, float) else results.counts)[name] = value


def _overlap(config: EvaluateConfig, base: Vectors, results: Evaluation) -> None:
    """Add the share of a row's nearest rows that are also nearest by the compared model."""
    other = _read(config.compare, config)[1]
    at = pc.index_in(base.ids, value_set=other.ids)
    shared = at.is_valid().to_numpy(zero_copy_only=False)
    results.counts["shared_rows"] = int(shared.sum())
    if shared.sum() < 2:
        raise StoreError(
            f"{config.table} and {config.compare} share {shared.sum()} ids, expected two or more."
        )
    k = min(K, int(shared.sum()) - 1)
    mine = nearest(base.vectors[shared], k).indices
    theirs = nearest(other.vectors[at.drop_null().to_numpy()], k).indices
    same = (mine[:, :, None] == theirs[:, None, :]).any(axis=2)
    results.measures[f"overlap@{k}"] = same.mean()


def _text(config: EvaluateConfig, result: dict[str, Any]) -> str:
    counts = [
        f"{value:>12,}  {name.replace('_', ' ')}"
        for name, value in result.items()
        if isinstance(value, int)
    ]
    measures = [
        f"{value:>12.4f}  {name}" for name, value in result.items() if isinstance(value, float)
    ]
    lines = [*counts, "", *measures]
    if "in_top_5" in result:
        lines.append(
            f"\nOf {result['queries']:,} queries {result['in_top_5']:,} have a right answer among the first five."
        )
    if config.picture:
        lines.append(
            f"{config.picture} shows how alike pairs are that belong together, and others."
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(EvaluateConfig, "evaluate", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
