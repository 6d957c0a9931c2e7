"""A look inside a model: the tokens of two texts, and what each layer makes of a word in both.

    embatch inspect all-MiniLM-L6-v2 "He sat on the bank of the river." "The bank lends money."
    embatch inspect models/mine "one text" --json

Side by side: tokens, what is cut off, which tokens the pooling takes. Then, for words that stand in
both texts (or --word), the cosine of the word's two vectors after each layer, and the share of their
values that are equal within --tolerance: the first layer knows the word, the last ones its context.
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
Place = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class InspectConfig:
    """Which model, and two texts for it.

    Attributes:
        model: a name that `embatch models` lists, a local folder, or a hub name
        one: a text
        other: another text, to compare with
        word: compare this word (default: all that stand in both texts)
        tolerance: two values are equal that differ by no more
        max_tokens: cut texts to so many tokens (default: the model's own bound)
        json: print one line of JSON, the last on stdout
    """

    model: Annotated[Place, tyro.conf.arg(metavar="MODEL")]
    one: Annotated[Place, tyro.conf.arg(metavar="TEXT")]
    other: Annotated[Place, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = ""
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
    """A text as the model takes it.

    Attributes:
        tokens: special ones included.
        ids: of the tokens.
        attended: of each token, whether it takes part; a cut text has no others here.
        n_cut: tokens of the whole text that are beyond the bound.
        norm: length of the text's vector.
    """

    tokens: list[str]
    ids: list[int]
    attended: list[int]
    n_cut: int
    norm: float


@dataclass(frozen=True)
class WordInside:
    """A word in both texts, after each layer; the first entry is before the first layer.

    Attributes:
        word: as it is compared, in lower case.
        tokens: that it is made of, in each text.
        cosine: of the word's two vectors, each the mean of its tokens' where it first stands.
        equal_share: share of the two vectors' values that are equal within the tolerance.
    """

    word: str
    tokens: list[list[str]]
    cosine: list[float]
    equal_share: list[float]


@dataclass(frozen=True)
class InspectSummary:
    """What was seen.

    Attributes:
        pooling: how token vectors become one.
        similarity: cosine of the two texts' vectors; None of one text.
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
        ModelError: the model cannot be had or is no transformer of texts; the word is not in both.
    """
    model = resolve(config.model, max_tokens=config.max_tokens or None)
    if model.spec.family != "transformer":
        raise ModelError(
            f"{model.name} is no plain transformer of texts, which inspect looks into."
        )
    layout = read_layout(model.folder)
    texts = [text for text in (config.one, config.other) if text]
    inside = _Inside(model, layout)
    seen = [inside.read(text) for text in texts]
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
        words = [_compared(word, seen, config.tolerance) for word in asked]
    told = [
        TextInside(one.tokens, one.ids, one.attended, one.n_cut, round(float(norm), 6))
        for one, norm in zip(seen, norms, strict=True)
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
        texts=told,
        words=words,
        similarity=cosine,
    )


@dataclass(frozen=True)
class _Seen:
    """A text's tokens, layers (n_layers + 1, n_tokens, dim), and the tokens of each of its words."""

    tokens: list[str]
    ids: list[int]
    attended: list[int]
    n_cut: int
    layers: np.ndarray
    places: dict[str, list[int]]


class _Inside:
    """A transformer that tells what each layer gives."""

    def __init__(self, model: Model, layout: Layout) -> None:
        from actors.encoders.modules import load_modules

        modules = load_modules(layout)
        self._tokenizer, self._network = modules.tokenizer, modules[0].model.eval()
        if not self._tokenizer.is_fast:
            raise ModelError(
                f"{model.name} has no fast tokenizer, which tells where a token stands."
            )
        self._prompt, self._max_tokens = model.prompt, model.max_tokens

    def read(self, text: str) -> _Seen:
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
        return _Seen(
            tokens=self._tokenizer.convert_ids_to_tokens(ids),
            ids=ids,
            attended=tokens["attention_mask"][0].tolist(),
            n_cut=whole - len(ids),
            layers=torch.stack([state[0] for state in states]).numpy(),
            places=places,
        )


def _compared(word: str, seen: list[_Seen], tolerance: float) -> WordInside:
    """One word's vectors in two texts, layer by layer."""
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
    """How alike two vectors are after each layer.

    Args:
        one: (n_layers, dim) float32, not zero.
        other: likewise.
        tolerance: two values are equal that differ by no more.

    Returns:
        Cosines (n_layers,) and shares of equal values (n_layers,).

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
    """The command line; returns the exit code."""
    return run_command(InspectConfig, "inspect", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
