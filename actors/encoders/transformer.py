"""Encoder of texts for any model folder of sentence-transformers or transformers.

Reads a folder (config, tokenizer, safetensors); gives vectors equal to
`SentenceTransformer(folder).encode(texts, prompt=prompt, normalize_embeddings=normalize)`. The BERT
family is computed without padding (`actors.kernels.packed`), all other models by sentence-transformers'
modules (`actors.encoders.modules`). torch is imported when an encoder is made, not with this module, so
that folders can be read without it.

    TransformerEncoder(folder).forward([[101, 7592, 102]])
"""

import copy
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.engine.engine import Tokens
from actors.engine.hardware import DTYPES, cores, on_lane, on_threads, setup_for
from actors.files.layout import read_layout, read_text_layout
from actors.files.settings import is_packable
from actors.models import ModelError

if TYPE_CHECKING:
    import torch

LONG_TEXT_CHARS = 100_000  # of a longer text, this prefix is tokenised first
Network = Callable[..., Callable[[list[list[int]]], "torch.Tensor"]]
WORD_BOUNDARY = re.compile(r"\S\s+\S")


class TransformerEncoder:
    """A text encoder on one device.

    Attributes:
        dim: Length of a vector.
        max_tokens: Tokens after which a text is cut, special tokens included.
        setup: Device, precision and degree of parallelism.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: str = "fp32",
        max_tokens: int | None = None,
        prompt: str = "",
        pooling: str | None = None,
        normalize: bool = True,
        network: Network | None = None,
    ) -> None:
        """Load the weights.

        Args:
            folder: A model folder.
            device: Name of the device, in torch's words.
            threads: Number of cores for torch and the tokenizer; None takes all of the machine.
            precision: "fp32", "bf16" or "fp16".
            max_tokens: Tokens after which a text is cut; None takes the model's own limit.
            prompt: Text to put before each text.
            pooling: Pooling of a folder that names none; None takes sentence-transformers' default.
            normalize: True to give unit rows.
            network: Function that makes the network of a family that has its own, without padding; None
                takes `PackedBert` if it gives the same vectors as the folder's modules, else the modules.

        Raises:
            ModelError: As `read_layout`; or weights are missing, or the folder has no fast tokenizer.
        """
        layout = read_layout(folder) if network else read_text_layout(folder)
        if pooling is not None and not layout.plain:
            raise ModelError(f"{folder} has its own pooling, {layout.pooling}; leave pooling out.")
        threads = threads or cores()
        # Read once, when the tokenizer's thread pool starts.
        os.environ["RAYON_NUM_THREADS"] = str(threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        from actors.encoders.modules import PaddedModules
        from actors.kernels.packed import PackedBert

        dtype = DTYPES[precision]
        if network is None and is_packable(layout, pooling, prompt=bool(prompt)):
            network = partial(PackedBert, pooling=pooling)
        if network is not None:
            from transformers import AutoTokenizer

            self.setup = setup_for(device, precision, threads, packed=True)
            with on_threads(
                self.setup
            ):  # linear layers are timed with the threads they will run on
                self._network = network(layout, device=device, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(layout.modules[0][1], local_files_only=True)
        else:
            self.setup = setup_for(device, precision, threads, packed=False)
            padded = PaddedModules(
                layout, device=device, dtype=dtype, pooling=pooling, prompt=prompt
            )
            self._network, tokenizer = padded, padded.tokenizer
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
        takes_types = "token_type_ids" in tokenizer.model_input_names
        if takes_types and any(self._tokenizer.encode("a").type_ids):
            raise ModelError(f"{folder} marks a single text with token types, which is not hosted.")
        self._prompt = prompt
        self._truncate_dim = layout.settings.get("truncate_dim")
        self._normalize = normalize
        self.dim = self.forward(self.tokenize(["a"]).ids).shape[1]

    def tokenize(self, texts: list[str]) -> Tokens:
        """Token ids of texts, with the prompt and special tokens, cut at max_tokens."""
        texts = [self._prompt + text for text in texts] if self._prompt else texts
        short = [text[:LONG_TEXT_CHARS] for text in texts]
        encodings = self._tokenizer.encode_batch_fast(short)
        for row, (text, prefix) in enumerate(zip(texts, short, strict=True)):
            if len(prefix) < len(text) and not self._is_enough(prefix):
                encodings[row] = self._tokenizer.encode(text)
        truncated = np.fromiter((bool(e.overflowing) for e in encodings), bool, len(encodings))
        return Tokens([e.ids for e in encodings], truncated)

    def forward(self, ids: list[list[int]]) -> np.ndarray:
        """Vectors of n texts, given as token ids: (n, dim) float32, unit rows if normalize."""
        import torch

        with torch.inference_mode(), on_lane(self.setup):
            vectors = self._network(ids)[:, : self._truncate_dim].float()
            if self._normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
            out: np.ndarray = vectors.cpu().numpy()
        return out

    def spans(self, text: str) -> np.ndarray:
        """Character offsets (n_tokens, 2) int64 of all tokens of a text, without prompt and special tokens."""
        offsets = self._whole.encode(text, add_special_tokens=False).offsets
        return np.array(offsets, dtype=np.int64).reshape(-1, 2)

    def _is_enough(self, prefix: str) -> bool:
        """True if a prefix of a text certainly has the same first max_tokens tokens as the whole text.

        That is so if words are tokenised one by one, and a word ends and another begins between the last
        of these tokens and the end of the prefix.
        """
        encoding = self._tokenizer.encode(prefix)
        if not (self._splits and self._cut_right and encoding.overflowing):
            return False
        end = max((end for _, end in encoding.offsets), default=0)
        return WORD_BOUNDARY.search(prefix, end) is not None


def _splits_at_spaces(tokenizer: Any) -> bool:  # noqa: ANN401
    """True if a tokenizer splits texts at spaces, so that words are tokenised one by one."""
    splitter = tokenizer.pre_tokenizer
    return splitter is not None and len(splitter.pre_tokenize_str("a b")) > 1
