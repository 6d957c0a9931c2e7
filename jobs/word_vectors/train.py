"""Train vectors for the words of a corpus: by word2vec, by fastText, or by the labels of its texts.

    embatch words train articles vectors.bin
    embatch words train articles vectors.bin --kind fasttext --dim 100
    embatch words train reviews.csv vectors.bin --kind label --label-column stars
    embatch words vectors.bin tables/words

OUT is in word2vec's binary format, or in Facebook's for fastText: gensim and `embatch words` read both.
OUT.json holds the settings of the training. With --kind label a text is the mean of its words' vectors, from
which a logistic regression predicts its label; words that point to the same label get similar vectors.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from actors.encoders.words import WORD
from actors.engine.hardware import cores
from jobs.runtime.command import run_command
from jobs.runtime.progress import Progress
from jobs.training.examples import CorpusOptions
from jobs.training.labelled import select_labelled
from schemas.errors import UsageError
from sources.rows import SourceError

VALIDATION_SHARE = 0.1
BATCH_TEXTS = 256
LEARNING_RATE = 0.01
N_SHOWN = 5


@dataclass(frozen=True)
class TrainConfig(CorpusOptions):
    """The texts, the training, and the file of the vectors.

    Attributes:
        out: file of words, ends in .bin
        kind: word2vec learns from words nearby, fasttext also from parts of words, label from labels
        dim: length of a vector
        window: number of words to each side that count as nearby
        skip_gram: predict the neighbours from a word, not the word from its neighbours
        min_count: leave out words that occur less often
        buckets: with --kind fasttext, number of vectors that parts of words share; fewer make a smaller file
        epochs: passes over the texts; with --kind label, at most so many
        patience: with --kind label, passes without progress after which training ends
        seed: of all random choices; only with --threads 1 does the same seed give the same vectors
        threads: number of threads that train (default: the machine's cores)
    """

    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.bin")] = ""
    kind: Literal["word2vec", "fasttext", "label"] = "word2vec"
    dim: int = 100
    window: int = 5
    skip_gram: bool = False
    min_count: int = 5
    buckets: int = 2_000_000
    epochs: int = 5
    patience: int = 3
    seed: int = 0
    threads: Annotated[int, tyro.conf.arg(metavar="N", help_behavior_hint="")] = 0

    def __post_init__(self) -> None:
        if not self.out.endswith(".bin"):
            raise UsageError(f"OUT is {self.out or 'missing'}, expected a file that ends in .bin.")
        for name in ("dim", "window", "min_count", "buckets", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}, expected 1 or more."
                )
        if (self.kind == "label") != bool(self.label_column):
            raise UsageError("--kind label and --label-column go together.")


class _Sentences:
    """Lists of the words of each text, in lower case; can be iterated several times."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def __iter__(self) -> Iterator[list[str]]:
        for example in self.config.examples():
            yield words_of(example.text)


def words_of(text: str) -> list[str]:
    """Words of a text, in lower case."""
    return [word.lower() for word in WORD.findall(text)]


def run(config: TrainConfig) -> dict[str, Any]:
    """Train the vectors and write their file.

    Raises:
        SourceError: there is no such source or column, or it has too few texts or words.
    """
    Path(config.out).parent.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"kind": config.kind, "epochs": config.epochs, "seed": config.seed}
    about["min_count"] = config.min_count
    if config.kind == "label":
        vectors, figures = _train_by_labels(config)
    else:
        about |= {"window": config.window, "skip_gram": config.skip_gram}
        vectors, figures = _train_by_neighbours(config)
    with open(f"{config.out}.json", "w", encoding="utf-8") as file:
        json.dump(about | figures, file, ensure_ascii=False)
    summary = {"file": config.out, "words": len(vectors), "dim": config.dim}
    return {**summary, **figures, **_pairs(vectors)}


def _train_by_neighbours(config: TrainConfig) -> tuple[Any, dict[str, Any]]:
    """Train by word2vec (Mikolov et al. 2013) or fastText (Bojanowski et al. 2017), by gensim.

    Returns:
        gensim's KeyedVectors, and figures for the summary.
    """
    from gensim.models import FastText, Word2Vec
    from gensim.models.fasttext import save_facebook_model

    sentences = _Sentences(config)
    options = {"bucket": config.buckets} if config.kind == "fasttext" else {}
    model = (FastText if config.kind == "fasttext" else Word2Vec)(
        **options,
        vector_size=config.dim,
        window=config.window,
        min_count=config.min_count,
        sg=int(config.skip_gram),
        workers=config.threads or cores(),
        seed=config.seed,
    )
    model.build_vocab(sentences)
    if not len(model.wv):
        raise SourceError(
            f"No word of {config.source} stands there {config.min_count} times. Lower --min-count."
        )
    with Progress("train", config.epochs, "passes", quiet=config.json) as progress:

        class ShowProgress(_callback()):  # type: ignore[misc]
            def on_epoch_end(self, _: object) -> None:
                progress.add(1)

        model.train(
            sentences,
            total_examples=model.corpus_count,
            epochs=config.epochs,
            callbacks=[ShowProgress()],
        )
    if config.kind == "fasttext":
        save_facebook_model(model, config.out)
    else:
        model.wv.save_word2vec_format(config.out, binary=True)
    return model.wv, {"texts": model.corpus_count}


def _callback() -> Any:  # noqa: ANN401
    from gensim.models.callbacks import CallbackAny2Vec

    return CallbackAny2Vec


class _MeanOfWords(torch.nn.Module):
    """A network that scores labels by the mean of the vectors of a text's words."""

    def __init__(self, n_words: int, dim: int, n_labels: int) -> None:
        super().__init__()
        self.bag = torch.nn.EmbeddingBag(n_words, dim, mode="mean")
        torch.nn.init.normal_(self.bag.weight, std=0.01)  # so that what is learnt outweighs it
        self.output = torch.nn.Linear(dim, n_labels)

    def forward(self, words: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Scores of labels for n texts, (n, n_labels) float32.

        Args:
            words: (w,) int64, rows of the words of all texts, one text after another.
            starts: (n,) int64, place in `words` of each text's first word; the mean of no words is zero.
        """
        scores: torch.Tensor = self.output(self.bag(words, starts))
        return scores


def _train_by_labels(config: TrainConfig) -> tuple[Any, dict[str, Any]]:
    """Train an embedding layer under a logistic output until the loss on texts held back falls no more.

    Returns:
        gensim's KeyedVectors, and figures for the summary.
    """
    from gensim.models import KeyedVectors

    unread: Counter[str] = Counter()
    data = select_labelled(config.examples(unread), config.label_column)
    texts = [words_of(text) for text in data.texts]
    counts = Counter(word for words in texts for word in words)
    vocabulary = [word for word, n in counts.most_common() if n >= config.min_count]
    if not vocabulary:
        raise SourceError(
            f"No word of {config.source} stands there {config.min_count} times. Lower --min-count."
        )
    index = {word: row for row, word in enumerate(vocabulary)}
    rows = [torch.tensor([index[word] for word in words if word in index]) for words in texts]
    train, held = data.split(VALIDATION_SHARE, config.seed)
    torch.manual_seed(config.seed)
    network = _MeanOfWords(len(vocabulary), config.dim, len(data.names))
    figures = _fit(network, rows, torch.from_numpy(data.labels), train, held, config)
    vectors = KeyedVectors(config.dim)
    vectors.add_vectors(vocabulary, network.bag.weight.detach().numpy())
    vectors.save_word2vec_format(config.out, binary=True)
    return vectors, {"texts": len(texts), "labels": data.names, "unread": dict(unread), **figures}


def _fit(
    network: "_MeanOfWords",
    rows: list[torch.Tensor],
    labels: torch.Tensor,
    train: np.ndarray,
    held: np.ndarray,
    config: TrainConfig,
) -> dict[str, Any]:
    """Train the network, and keep the weights of its best pass.

    Args:
        network: to train.
        rows: words of each text, (w,) int64 each.
        labels: (n,) int64, label of each text.
        train: (t,) int64, texts for training.
        held: (h,) int64, texts held back for evaluation.
        config: options of the command.

    Returns:
        `passes`, and `loss` and `accuracy` of the best pass on the texts held back.
    """
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    chance = np.random.default_rng(config.seed)

    def loss_of(some: np.ndarray) -> tuple[torch.Tensor, float]:
        bags = [rows[row] for row in some]
        ends = np.cumsum([0] + [len(bag) for bag in bags[:-1]])
        scores = network(torch.cat(bags).long(), torch.from_numpy(ends))
        right = (scores.argmax(dim=1) == labels[some]).float().mean()
        return torch.nn.functional.cross_entropy(scores, labels[some]), float(right)

    best, best_loss, since, accuracy, passes = None, np.inf, 0, 0.0, 0
    with Progress("train", config.epochs, "passes", quiet=config.json) as progress:
        while passes < config.epochs and since < config.patience:
            order = chance.permutation(train)
            for start in range(0, len(order), BATCH_TEXTS):
                optimizer.zero_grad()
                loss_of(order[start : start + BATCH_TEXTS])[0].backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                loss, right = loss_of(held)
            progress.add(1)
            passes, since = passes + 1, since + 1
            if float(loss) < best_loss:
                best_loss, since, accuracy = float(loss), 0, right
                best = {name: value.clone() for name, value in network.state_dict().items()}
    assert best is not None  # a loss is less than infinity
    network.load_state_dict(best)
    return {"passes": passes, "loss": round(best_loss, 6), "accuracy": round(accuracy, 4)}


def _pairs(vectors: Any) -> dict[str, Any]:  # noqa: ANN401
    """Pairs among the most frequent words: N_SHOWN pairs that are most alike, and N_SHOWN least alike."""
    words = vectors.index_to_key[:1000]
    if len(words) < 2:
        return {}
    unit = vectors.get_normed_vectors()[: len(words)]
    cosines = unit @ unit.T
    upper = np.triu_indices(len(words), 1)
    order = np.argsort(cosines[upper])

    def named(some: np.ndarray) -> list[tuple[str, str, float]]:
        rows, columns = upper[0][some], upper[1][some]
        return [
            (words[a], words[b], round(float(cosines[a, b]), 4))
            for a, b in zip(rows, columns, strict=True)
        ]

    return {"most_alike": named(order[::-1][:N_SHOWN]), "least_alike": named(order[:N_SHOWN])}


def _text(config: TrainConfig, summary: dict[str, Any]) -> str:
    n_words, n_texts = summary["words"], summary["texts"]
    lines = [f"{n_words:>12,}  words of {summary['dim']} dimensions, from {n_texts:,} texts"]
    if "accuracy" in summary:
        lines.append(f"{summary['accuracy']:>12.1%}  accuracy on texts held back")
        lines.append(f"{summary['passes']:>12,}  passes")
        unread = summary["unread"]
        lines += [f"{n:>12,}  could not be read: {reason}" for reason, n in unread.items()]
    for name in ("most_alike", "least_alike"):
        lines.append(f"\n{name.replace('_', ' ').capitalize()}, of the most frequent:")
        lines += [f"{value:>12.3f}  {a}, {b}" for a, b, value in summary.get(name, ())]
    lines.append(f"\n{config.out}: `embatch words {config.out} TABLE` makes a table of it.")
    return "\n".join(lines)


def command(arguments: list[str]) -> int:
    """Run the command line, whose first argument is `train`; returns the exit code."""
    return run_command(TrainConfig, "words train", __doc__, arguments[1:], run, _text)
