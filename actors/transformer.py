"""Host any text encoder in the layout of sentence-transformers or transformers.

Reads a folder (config, tokenizer, safetensors); gives vectors equal to
`SentenceTransformer(folder).encode(texts, prompt=prompt, normalize_embeddings=normalize)`. The
modules behind the tokens (pooling, dense, …) are sentence-transformers' own. torch is imported
when an encoder is made, not with this file, so that folders can be read without it.

    TransformerEncoder(folder).forward([[101, 7592, 102]])
"""

import copy
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.engine import ModelError, Tokens
from actors.layout import Layout, dpr_class, read_layout

if TYPE_CHECKING:
    import torch

Network = Callable[[dict[str, Any]], "torch.Tensor"]
LONG_TEXT_CHARS = 100_000  # beyond it a prefix is tokenised first
WORD_BOUNDARY = re.compile(r"\S\s+\S")
# Weights that a text encoder may lack: a pooler that its vectors do not go through, and buffers.
HARMLESS = re.compile(r"(^|\.)pooler\.|position_ids$")


class TransformerEncoder:
    """A text encoder on one device, in fp32.

    Attributes:
        dim: Length of a vector.
        max_tokens: Tokens after which a text is cut, special tokens included.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        max_tokens: int | None = None,
        prompt: str = "",
        pooling: str | None = None,
        normalize: bool = True,
    ) -> None:
        """Load the weights, with torch and the tokenizer on the given threads.

        Args:
            folder: A model folder.
            device: As torch names it.
            threads: For torch and the tokenizer; None leaves both as they are.
            max_tokens: None takes the model's own.
            prompt: Put before each text.
            pooling: For a folder that names none; None takes the default of sentence-transformers.
            normalize: Whether to give unit rows.

        Raises:
            ModelError: See `read_layout`; or weights are missing, or the tokenizer is a slow one.
        """
        layout = read_layout(folder)
        if pooling is not None and (not layout.plain or layout.is_dpr):
            raise ModelError(f"{folder} has its own pooling, {layout.pooling}; leave pooling out.")
        if threads is not None:
            # Read once, when the tokenizer's thread pool starts.
            os.environ["RAYON_NUM_THREADS"] = str(threads)
            os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        if layout.is_dpr:
            self._network, tokenizer = _load_dpr(layout, device)
        else:
            self._network, tokenizer = _load_modules(layout, device, pooling)
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(f"{folder} has no fast tokenizer: save it with a tokenizer.json.")
        self.max_tokens = layout.max_tokens if max_tokens is None else max_tokens
        self._tokenizer = copy.deepcopy(tokenizer.backend_tokenizer)
        self._tokenizer.no_padding()
        n_special = self._tokenizer.num_special_tokens_to_add(False)
        if not n_special < self.max_tokens <= layout.positions:
            raise ModelError(
                f"max_tokens is {self.max_tokens}, expected {n_special + 1} to {layout.positions}."
            )
        self._whole = copy.deepcopy(self._tokenizer)
        self._whole.no_truncation()
        self._tokenizer.enable_truncation(self.max_tokens, direction=tokenizer.truncation_side)
        self._cut_right = tokenizer.truncation_side == "right"
        self._splits = _splits_at_spaces(self._tokenizer)
        self._pad_id = tokenizer.pad_token_id or 0
        self._type_ids = "token_type_ids" in tokenizer.model_input_names
        if self._type_ids and any(self._tokenizer.encode("a").type_ids):
            raise ModelError(f"{folder} marks a single text with token types, which is not hosted.")
        self._device = device
        self._prompt = prompt
        self._prompt_tokens = _prompt_tokens(self._whole, tokenizer, prompt)
        self._truncate_dim = layout.settings.get("truncate_dim")
        self._normalize = normalize
        self.dim = self.forward(self.tokenize(["a"]).ids).shape[1]

    def tokenize(self, texts: list[str]) -> Tokens:
        """Token ids of the texts, with the prompt and special tokens, cut at max_tokens."""
        texts = [self._prompt + text for text in texts] if self._prompt else texts
        short = [text[:LONG_TEXT_CHARS] for text in texts]
        encodings = self._tokenizer.encode_batch_fast(short)
        for row, (text, prefix) in enumerate(zip(texts, short, strict=True)):
            if len(prefix) < len(text) and not self._is_enough(prefix):
                encodings[row] = self._tokenizer.encode(text)
        truncated = np.fromiter((bool(e.overflowing) for e in encodings), bool, len(encodings))
        return Tokens([e.ids for e in encodings], truncated)

    def forward(self, ids: list[list[int]]) -> np.ndarray:
        """Vectors of one micro-batch: (n, dim) float32, in order, unit rows if normalising."""
        import torch

        # Always on the right: padding on the left would shift positions that count from the start.
        width = max(map(len, ids))
        tokens = np.full((len(ids), width), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(ids), width), dtype=np.int64)
        for row, text in enumerate(ids):
            tokens[row, : len(text)] = text
            mask[row, : len(text)] = 1
        features: dict[str, Any] = {
            "input_ids": torch.from_numpy(tokens).to(self._device),
            "attention_mask": torch.from_numpy(mask).to(self._device),
        }
        if self._type_ids:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        if self._prompt_tokens:  # for poolings that leave the prompt out
            features["prompt_length"] = self._prompt_tokens
        with torch.inference_mode():
            vectors = self._network(features)[:, : self._truncate_dim].float()
            if self._normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
            out: np.ndarray = vectors.cpu().numpy()
        return out

    def spans(self, text: str) -> np.ndarray:
        """Character offsets (n_tokens, 2) int64 of the tokens: no prompt, no special ones, uncut."""
        offsets = self._whole.encode(text, add_special_tokens=False).offsets
        return np.array(offsets, dtype=np.int64).reshape(-1, 2)

    def _is_enough(self, prefix: str) -> bool:
        """Whether a prefix surely gives the same first tokens as the whole text.

        It does if words are tokenised one by one, and a word begins and ends between the last
        token kept and the cut.
        """
        encoding = self._tokenizer.encode(prefix)
        if not (self._splits and self._cut_right and encoding.overflowing):
            return False
        end = max((end for _, end in encoding.offsets), default=0)
        return WORD_BOUNDARY.search(prefix, end) is not None


def _load_dpr(layout: Layout, device: str) -> tuple[Network, Any]:
    """One of DPR's encoders, whose vector is its pooler output, and its tokenizer."""
    import torch
    import transformers

    folder = str(layout.folder)
    with _checked_loading(layout.folder, harmless=None):
        encoder = getattr(transformers, dpr_class(layout)).from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoder = encoder.to(device).eval()

    def network(features: dict[str, Any]) -> "torch.Tensor":
        features.pop("prompt_length", None)
        vectors: torch.Tensor = encoder(**features).pooler_output
        return vectors

    return network, tokenizer


def _load_modules(layout: Layout, device: str, pooling: str | None) -> tuple[Network, Any]:
    """The modules of sentence-transformers in their order, and the tokenizer."""
    import torch
    from sentence_transformers import SentenceTransformer

    with _checked_loading(layout.folder, harmless=HARMLESS):
        modules = SentenceTransformer(
            str(layout.folder),
            device=device,
            model_kwargs={"dtype": torch.float32, "use_safetensors": True},
            local_files_only=True,
        )
    if getattr(modules[0], "module_output_name", "token_embeddings") != "token_embeddings":
        raise ModelError(f"{layout.folder} is not a text encoder: it gives no token embeddings.")
    if "message" in getattr(modules[0], "modality_config", {}):
        raise ModelError(f"{layout.folder} renders texts as chat messages, which is not hosted.")
    if pooling is not None:
        modules[1].pooling_mode = pooling
    modules.eval()

    def network(features: dict[str, Any]) -> "torch.Tensor":
        vectors: torch.Tensor = modules({**features, "modality": "text"})["sentence_embedding"]
        return vectors

    return network, modules.tokenizer


@contextmanager
def _checked_loading(folder: Path, harmless: re.Pattern[str] | None) -> Iterator[None]:
    """Refuse weights that transformers would draw at random since the folder lacks them.

    transformers only logs it. It reports the missing keys when asked to, but sentence-transformers
    passes no such request on, so it is added to each call here; its own log is kept off.
    """
    from transformers import PreTrainedModel
    from transformers.utils import logging

    original = PreTrainedModel.__dict__["from_pretrained"]
    missing: set[str] = set()

    def from_pretrained(cls: type, /, *args: object, **kwargs: object) -> object:
        model, report = original.__func__(cls, *args, output_loading_info=True, **kwargs)
        missing.update(map(str, report["missing_keys"]))
        return model

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained = original
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
    lacking = sorted(key for key in missing if harmless is None or not harmless.search(key))
    if lacking:
        raise ModelError(
            f"{folder} lacks {len(lacking)} of the model's weights ({', '.join(lacking[:3])}, …),"
            " which would be random. Download the model again."
        )


def _splits_at_spaces(tokenizer: Any) -> bool:  # noqa: ANN401
    """Whether words are tokenised each for itself."""
    splitter = tokenizer.pre_tokenizer
    return splitter is not None and len(splitter.pre_tokenize_str("a b")) > 1


def _prompt_tokens(whole: Any, tokenizer: Any, prompt: str) -> int:  # noqa: ANN401
    """Tokens that a pooling without the prompt leaves out, counted as sentence-transformers does."""
    ids = whole.encode(prompt).ids if prompt else []
    return len(ids) - 1 if ids and ids[-1] in tokenizer.all_special_ids else len(ids)
