"""Extractive question answering: find the words of a passage that answer a question.

Any model works that transformers loads for question answering, with weights as safetensors. Long passages
are read in parts of up to 384 tokens, which overlap and are called windows here, as in the papers.

    SpanReader("models/reader").read("Who wrote it?", ["It was written by Ada."])[0].text
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.files.layout import OFFSET_POSITIONS, refuse_adapters
from actors.files.loading import load_whole
from actors.files.weights import find_on_hub, is_hub_name
from actors.models import ModelError

WINDOW_TOKENS, OVERLAP_TOKENS = 384, 128  # as in BERT's code for SQuAD
ANSWER_TOKENS = 30  # no answer is longer
WINDOWS_AT_ONCE = 16
TOKENIZERS = ("tokenizer.json", "vocab.*", "*.model")


@dataclass(frozen=True)
class Span:
    """An answer within a passage.

    Attributes:
        text: Words of the answer.
        start: Index of its first character in the passage.
        end: Index after its last character.
        score: Probability of its first token times that of its last, in [0, 1].
    """

    text: str
    start: int
    end: int
    score: float


class SpanReader:
    """A model that finds the answer to a question in a passage.

    The score of an answer is p_start(first) * p_end(last). Both are softmaxes over the passage's tokens in
    a window and the window's first token, which stands for no answer (Devlin et al. 2019, sections 4.2 and
    4.3).
    """

    def __init__(self, model: str, *, device: str = "cpu") -> None:
        """Load the model.

        Args:
            model: A folder, or a name on the hub.
            device: Name of the device, in torch's words.

        Raises:
            ModelError: The model cannot be found, or is not made for question answering.
        """
        import transformers

        folder = model
        if not os.path.isdir(model):
            if not is_hub_name(model):
                raise ModelError(f"Reader {model} is neither a folder nor a name on the hub.")
            folder = find_on_hub(model)
        refuse_adapters(Path(folder))
        try:
            config = transformers.AutoConfig.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{model} is no reader: it has no config.json that tells its kind."
            ) from error
        named = config.architectures or []
        if not any(name.endswith("ForQuestionAnswering") for name in named):
            raise ModelError(
                f"{model} is no reader: its config.json names {', '.join(named) or 'no class'},"
                " expected one that ends in ForQuestionAnswering."
            )
        try:
            network = load_whole(transformers.AutoModelForQuestionAnswering, folder)
        except OSError as error:
            raise ModelError(f"Reader {model} has no weights as safetensors: {error}") from error
        if not any(path for kind in TOKENIZERS for path in Path(folder).glob(kind)):
            raise ModelError(
                f"Reader {model} has no tokenizer: expected tokenizer.json or a vocabulary."
            )
        self._network = network.to(device).eval()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._device = device
        positions = getattr(config, "max_position_embeddings", WINDOW_TOKENS)
        if config.model_type in OFFSET_POSITIONS:
            positions -= config.pad_token_id + 1
        self._window = min(WINDOW_TOKENS, positions, self._tokenizer.model_max_length)

    def read(self, question: str, passages: list[str]) -> list[Span | None]:
        """Find the best answer in each passage; None if "no answer" scores higher.

        Raises:
            ModelError: The question leaves no room for a passage.
        """
        own = len(self._tokenizer(question)["input_ids"])
        if own > self._window // 2:
            raise ModelError(
                f"The question has {own} tokens, expected at most {self._window // 2}: a half of what"
                " the reader takes."
            )
        found: list[Span | None] = []
        for passage in passages:
            windows = self._tokenizer(
                question,
                passage,
                truncation="only_second",
                max_length=self._window,
                stride=min(OVERLAP_TOKENS, (self._window - own) // 3),
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                padding=True,
                return_tensors="pt",
            )
            wanted = {name: windows[name].to(self._device) for name in self._inputs(windows)}
            starts, ends = self._logits(wanted)
            best: Span | None = None
            none_score = 1.0
            for row in range(len(starts)):
                of_passage = np.array([kind == 1 for kind in windows.sequence_ids(row)])
                offsets = windows["offset_mapping"][row].numpy()
                span, no_answer = best_span(starts[row], ends[row], of_passage)
                none_score = min(none_score, no_answer)
                if span is not None and (best is None or span[2] > best.score):
                    start, end = int(offsets[span[0]][0]), int(offsets[span[1]][1])
                    best = Span(passage[start:end], start, end, span[2])
            found.append(best if best is not None and best.score > none_score else None)
        return found

    def _logits(self, inputs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Logits of first and of last tokens, each (n_windows, width) float32, a few windows at a time."""
        import torch

        parts = []
        for start in range(0, len(inputs["input_ids"]), WINDOWS_AT_ONCE):
            some = {name: each[start : start + WINDOWS_AT_ONCE] for name, each in inputs.items()}
            with torch.inference_mode():
                output = self._network(**some)
            parts.append((output.start_logits.float().cpu(), output.end_logits.float().cpu()))
        starts, ends = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
        return starts, ends

    def _inputs(self, windows: object) -> list[str]:
        """Names of the tokenizer's outputs that the network takes."""
        names: list[str] = self._tokenizer.model_input_names
        return [name for name in names if name in windows]  # type: ignore[operator]


def best_span(
    starts: np.ndarray, ends: np.ndarray, of_passage: np.ndarray
) -> tuple[tuple[int, int, float] | None, float]:
    """The answer with the highest score in a window, and the score of "no answer".

    Args:
        starts: (n,) float32, logit of each token to be the answer's first.
        ends: (n,) float32, logit of each token to be the answer's last.
        of_passage: (n,) bool, True for tokens of the passage; the first token of the window stands for no
            answer.

    Returns:
        (first, last, score) with indices of tokens, or None if no token is of the passage; the score of
        "no answer".

    For starts [0, 2, 0], ends [0, 0, 2] and the last two of the passage: (1, 2, 0.62) and 0.011.
    """
    allowed = of_passage.copy()
    allowed[0] = True
    shares = []
    for logits in (starts, ends):
        powers = np.where(allowed, np.exp(logits - logits[allowed].max()), 0)
        shares.append(powers / powers.sum())
    none = float(shares[0][0] * shares[1][0])
    if not of_passage.any():
        return None, none
    inside = [np.where(of_passage, share, 0) for share in shares]
    products = np.triu(np.outer(*inside)) - np.triu(np.outer(*inside), ANSWER_TOKENS)
    first, last = np.unravel_index(products.argmax(), products.shape)
    return (int(first), int(last), float(products[first, last])), none
