"""Show the tokens of two texts in a model, and a word's vectors in both texts after each layer.

    embatch inspect all-MiniLM-L6-v2 "He sat on the bank of the river." "The bank lends money."
    embatch inspect models/mine "one text" --json

First come the tokens side by side, the number of tokens cut off, and the tokens that the pooling takes. Then,
for words that both texts have (or --word), come the cosine of the word's two vectors after each layer, and
the share of their values that are equal within --tolerance. The first layer knows the word, the last layers
know its context.
"""

import itertools
import sys
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import regex
import tyro

from actors.checkpoints import Model, resolve
from actors.engine.engine import Engine
from actors.files.layout import Layout, read_layout
from actors.models import ModelError
from jobs.runtime.command import Flag, run_command
from schemas.errors import UsageError

MOST_WORDS = 20
WORD = regex.compile(r"[\w\p{M}]+")  # with combining marks
Positional = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class InspectConfig:
    """The model, and two texts for it.

    Attributes:
        model: a name that `embatch models` lists, a local folder, or a hub name
        one: a text
        other: another text, to compare with
        word: word to compare (default: all words that both texts have)
        tolerance: two values count as equal if they differ by no more
        max_tokens: cut texts to so many tokens (default: the model's own bound)
        json: print one line of JSON, the last on stdout
    """

    model: Annotated[Positional, tyro.conf.arg(metavar="MODEL")]
    one: Annotated[Positional, tyro.conf.arg(metavar="TEXT")]
    other: Annotated[Positional, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = ""
    word: Annotated[str, tyro.conf.arg(metavar="WORD", help_behavior_hint="")] = ""
    tolerance: float = 0.01
    max_tokens: Annotated[int, tyro.conf.arg(metavar="N", help_behavior_hint="")] = 0
    json: Flag = False

    def __post_init__(self) -> None:
        if not self.one.strip():
            raise UsageError("TEXT is empty.")
        if self.word and not self.other.strip():
            raise UsageError("--word is compared in two texts. Add another TEXT.")
        if not self.tolerance >= 0:
            raise UsageError(f"--tolerance is {self.tolerance}, expected 0 or more.")


@dataclass(frozen=True)
class TextInside:
    """A text as the model reads it.

    Attributes:
        tokens: tokens of the text, special ones included; tokens that are cut off are not here.
        ids: ids of the tokens.
        attended: attention mask, 1 for each token that takes part.
        n_cut: number of tokens that are cut off.
        norm: length of the text's vector.
    """

    tokens: list[str]
    ids: list[int]
    attended: list[int]
    n_cut: int
    norm: float


@dataclass(frozen=True)
class WordInside:
    """A word's vectors in both texts, compared before the first layer and after each layer.

    Attributes:
        word: the word in lower case.
        tokens: tokens of the word, in each text.
        cosine: cosine of the word's two vectors by layer; each is the mean of its tokens' vectors where the
            word first occurs.
        equal_share: share of the two vectors' values that are equal within the tolerance, by layer.
    """

    word: str
    tokens: list[list[str]]
    cosine: list[float]
    equal_share: list[float]


@dataclass(frozen=True)
class InspectSummary:
    """Facts about the model, and its vectors of the texts and their words.

    Attributes:
        pooling: rule that makes one vector of the tokens' vectors.
        prompt: words before each text.
        texts: tokens of each text.
        words: words that both texts have.
        similarity: cosine of the two texts' vectors; None if there is one text.
    """

    model: str
    dim: int
    n_layers: int
    max_tokens: int
    pooling: str
    prompt: str
    texts: list[TextInside]
    words: list[WordInside] = field(default_factory=list)
    similarity: float | None = None


def run(config: InspectConfig) -> InspectSummary:
    """Run the texts through the model, layer by layer.

    Raises:
        ModelError: the model cannot be had or is no transformer of texts, or a text lacks the word.
    """
    model = resolve(config.model, max_tokens=config.max_tokens or None)
    if model.spec.family != "transformer":
        raise ModelError(
            f"{model.name} is no plain transformer of texts, which inspect looks into."
        )
    layout = read_layout(model.folder)
    texts = [text for text in (config.one, config.other) if text]
    network = _LayeredNetwork(model, layout)
    seen = [network.read(text) for text in texts]
    encoded = Engine(model.load()).encode(texts)
    if encoded.errors:
        raise ModelError(f"The text cannot be embedded: {next(iter(encoded.errors.values()))}")
    norms = np.linalg.norm(encoded.vectors, axis=1)
    words = []
    if len(texts) == 2:
        shared = [word for word in seen[0].places if word in seen[1].places]
        asked = [config.word.lower()] if config.word else shared[:MOST_WORDS]
        if config.word and asked[0] not in shared:
            raise ModelError(
                f"The texts do not share a word {config.word!r} within what the model reads. They"
                f" share: {', '.join(shared) or 'none'}."
            )
        words = [_compare_word(word, seen, config.tolerance) for word in asked]
    insides = [
        TextInside(text.tokens, text.ids, text.attended, text.n_cut, round(float(norm), 6))
        for text, norm in zip(seen, norms, strict=True)
    ]
    cosine = None
    if len(texts) == 2:
        cosine = round(float(encoded.vectors[0] @ encoded.vectors[1] / norms.prod()), 6)
    return InspectSummary(
        model=model.name,
        dim=model.dim,
        n_layers=len(seen[0].layers) - 1,
        max_tokens=model.max_tokens,
        pooling=layout.pooling,
        prompt=model.prompt,
        texts=insides,
        words=words,
        similarity=cosine,
    )


@dataclass(frozen=True)
class _ReadText:
    """A text after it went through the network.

    Attributes:
        layers: (n_layers + 1, n_tokens, dim) float32, vectors of the tokens before the first layer and
            after each layer.
        places: indices of the tokens of each word, by the word in lower case.
    """

    tokens: list[str]
    ids: list[int]
    attended: list[int]
    n_cut: int
    layers: np.ndarray
    places: dict[str, list[int]]


class _LayeredNetwork:
    """A transformer that returns the vectors of all layers."""

    def __init__(self, model: Model, layout: Layout) -> None:
        from actors.encoders.modules import load_modules

        modules = load_modules(layout)
        self._tokenizer, self._network = modules.tokenizer, modules[0].model.eval()
        if not self._tokenizer.is_fast:
            raise ModelError(
                f"{model.name} has no fast tokenizer, which tells where a token stands."
            )
        self._prompt, self._max_tokens = model.prompt, model.max_tokens

    def read(self, text: str) -> _ReadText:
        import torch

        prepared = self._prompt + text
        whole = len(self._tokenizer(prepared)["input_ids"])
        tokens = self._tokenizer(
            prepared,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
            return_offsets_mapping=True,
        )
        offsets = tokens.pop("offset_mapping")[0].tolist()
        with torch.inference_mode():
            states = self._network(**tokens, output_hidden_states=True).hidden_states
        places: dict[str, list[int]] = {}
        for match in WORD.finditer(prepared, len(self._prompt)):
            inside = [
                place
                for place, (start, end) in enumerate(offsets)
                if start < match.end() and end > match.start() and end > start
            ]
            if inside and offsets[inside[-1]][1] >= match.end():  # whole, not cut off
                places.setdefault(match.group().lower(), inside)
        ids = tokens["input_ids"][0].tolist()
        return _ReadText(
            tokens=self._tokenizer.convert_ids_to_tokens(ids),
            ids=ids,
            attended=tokens["attention_mask"][0].tolist(),
            n_cut=whole - len(ids),
            layers=torch.stack([state[0] for state in states]).numpy(),
            places=places,
        )


def _compare_word(word: str, seen: list[_ReadText], tolerance: float) -> WordInside:
    """Compare a word's vectors in two texts, layer by layer."""
    one, other = (text.layers[:, text.places[word]].mean(axis=1) for text in seen)
    cosines, shares = word_by_layer(one, other, tolerance)
    return WordInside(
        word=word,
        tokens=[[text.tokens[place] for place in text.places[word]] for text in seen],
        cosine=[round(float(value), 6) for value in cosines],
        equal_share=[round(float(value), 6) for value in shares],
    )


def word_by_layer(
    one: np.ndarray, other: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and shares of equal values of two vectors after each layer.

    Args:
        one: (n_layers, dim) float32, no row is zero.
        other: (n_layers, dim) float32, no row is zero.
        tolerance: two values count as equal if they differ by no more.

    Returns:
        Cosines (n_layers,) float32, and shares of equal values (n_layers,) float64.

    For [[3, 4]] and [[3, 0]] and a tolerance of 0: [0.6] and [0.5].
    """
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / norms, (np.abs(one - other) <= tolerance).mean(axis=1)


def _text(config: InspectConfig, summary: InspectSummary) -> str:
    lines = [f"{summary.model}: {summary.n_layers} layers, vectors of {summary.dim}"]
    taken = {
        "mean": "the mean of all tokens' vectors",
        "cls": "the first token's vector",
        "max": "the largest value of each number over all tokens",
        "lasttoken": "the last token's vector",
    }.get(summary.pooling, summary.pooling)
    lines.append(f"A text's vector is {taken}; at most {summary.max_tokens} tokens are read.")
    if summary.prompt:
        lines.append(f"Before each text stands {summary.prompt!r}.")
    width = max(len(token) for text in summary.texts for token in text.tokens)
    lines.append("")
    columns = [
        [
            f"{token:<{width}}  {mask}"
            for token, mask in zip(text.tokens, text.attended, strict=True)
        ]
        for text in summary.texts
    ]
    blank = " " * (width + 3)
    lines.append("      " + "    ".join(f"{'token':<{width}}  a" for _ in columns))
    for row, cells in enumerate(itertools.zip_longest(*columns, fillvalue=blank)):
        lines.append(f"{row:>4}  {'    '.join(cells)}".rstrip())
    lines.append("a: 1 where the token takes part (attention mask)")
    for number, text in enumerate(summary.texts, 1):
        if text.n_cut:
            lines.append(f"Text {number} is cut: {text.n_cut:,} of its tokens are not read.")
    if summary.similarity is not None:
        lines.append(f"\n{summary.similarity:8.4f}  cosine of the two texts")
    for word in summary.words:
        made = " / ".join(" ".join(tokens) for tokens in word.tokens)
        lines += ["", f"{word.word} ({made})", "   layer   cosine    equal"]
        values = zip(word.cosine, word.equal_share, strict=True)
        lines += [
            f"{layer:>8} {cosine:8.4f} {share:8.1%}" for layer, (cosine, share) in enumerate(values)
        ]
    if len(summary.texts) == 2 and not summary.words:
        lines.append("\nThe texts share no word.")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(InspectConfig, "inspect", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
