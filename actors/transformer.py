"""Host any text encoder in the layout of sentence-transformers or transformers.

Reads a folder (config, tokenizer, safetensors); gives vectors equal to
`SentenceTransformer(folder).encode(texts, prompt=prompt, normalize_embeddings=normalize)`. The
modules behind the tokens (pooling, dense, …) are sentence-transformers' own. torch is imported
when an encoder is made, not with this file, so that folders can be read without it.

    TransformerEncoder(folder).forward([[101, 7592, 102]])
"""

import copy
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.engine import ModelError, Tokens

if TYPE_CHECKING:
    import torch

Network = Callable[[dict[str, Any]], "torch.Tensor"]

LONG_TEXT_CHARS = 100_000  # beyond it a prefix is tokenised first
WORD_BOUNDARY = re.compile(r"\S\s+\S")
PICKLES = ("pytorch_model*.bin", "*.pt", "*.ckpt")
TOKENIZER_FILES = (
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "sentence_*_config.json"),
    *("vocab.*", "merges.txt", "*.model"),
)
# Weights that a text encoder may lack: a pooler that its vectors do not go through, and buffers.
HARMLESS = re.compile(r"(^|\.)pooler\.|position_ids$")
# Settings that change vectors and leave no trace in the weights. Not the whole config: each
# version of transformers writes another.
CONFIG_KEYS = (
    *("model_type", "hidden_act", "activation", "num_attention_heads", "n_heads"),
    *("layer_norm_eps", "rms_norm_eps", "rope_theta"),
)
# Their learned positions begin after the padding index.
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl")
CORPUS_PROMPTS = ("document", "passage", "corpus")  # as in encode_document
LEGACY_POOLING = {  # settings of sentence-transformers before 6, in its order
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
UNLIMITED = 1 << 20  # tokens, where neither tokenizer nor positions set a limit


@dataclass(frozen=True)
class Layout:
    """What the files of a model folder say, weights unread.

    Attributes:
        folder: The model's folder.
        modules: Class name, folder and settings of each module; the transformer comes first.
        config: Of the transformer, config.json.
        settings: Of the whole, config_sentence_transformers.json.
        plain: Whether the folder is transformers' own and says nothing of pooling.
    """

    folder: Path
    modules: list[tuple[str, Path, dict[str, Any]]]
    config: dict[str, Any]
    settings: dict[str, Any]
    plain: bool

    @property
    def is_dpr(self) -> bool:
        """Whether the vector is the output of one of DPR's two encoders."""
        return self.plain and self.config.get("model_type") == "dpr"

    @property
    def pooling(self) -> str:
        """Pooling modes, joined by "+"; for a plain folder the default of sentence-transformers."""
        for kind, _, settings in self.modules:
            if kind == "Pooling":
                return "+".join(_pooling_modes(settings))
        causal = str((self.config.get("architectures") or [""])[0]).endswith("ForCausalLM")
        if self.is_dpr:
            return "cls"
        return "lasttoken" if causal and self.config.get("is_causal", True) else "mean"

    @property
    def dim(self) -> int:
        """Length of a vector."""
        config = self.config
        hidden = config.get("hidden_size") or config.get("dim") or config.get("d_model") or 0
        dim = int(hidden)
        if self.is_dpr:
            dim = int(config.get("projection_dim") or hidden)
        for kind, _, settings in self.modules:
            if kind == "Pooling":
                width = settings.get(
                    "embedding_dimension", settings.get("word_embedding_dimension")
                )
                dim = int(width or hidden) * len(_pooling_modes(settings))
            elif kind == "Dense":
                dim = int(settings["out_features"])
        return min(dim, int(self.settings.get("truncate_dim") or dim))

    @property
    def positions(self) -> int:
        """The most tokens that the transformer has positions for."""
        n = self.config.get("max_position_embeddings") or UNLIMITED
        offset = self.config.get("model_type") in OFFSET_POSITIONS
        return int(n) - (int(self.config.get("pad_token_id", 1)) + 1 if offset else 0)

    @property
    def max_tokens(self) -> int:
        """Tokens after which the model's authors cut a text."""
        _, folder, settings = self.modules[0]
        tokenizer = _read_json(folder / "tokenizer_config.json")
        said = settings.get("max_seq_length") or tokenizer.get("model_max_length") or UNLIMITED
        return int(min(said, self.positions))

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by name, the one for a corpus first; empty where a corpus takes none."""
        prompts = {k: v for k, v in (self.settings.get("prompts") or {}).items() if v is not None}
        named = (self.settings.get("default_prompt_name"), *CORPUS_PROMPTS)
        first = next((name for name in named if name in prompts), None)
        return ({first: prompts[first]} if first else {"none": ""}) | prompts if prompts else {}

    def weight_files(self) -> dict[str, list[Path]]:
        """The safetensors files of each module that has weights, by its place and kind."""
        files = {f"{i} {kind}": _safetensors(at) for i, (kind, at, _) in enumerate(self.modules)}
        return {module: found for module, found in files.items() if found}

    def tokenizer_files(self) -> list[Path]:
        """The files that decide which tokens a text becomes."""
        folder = self.modules[0][1]
        return sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)})

    def facets(self) -> list[Any]:
        """What shapes the vectors besides the weights, as JSON."""
        modules = []
        for kind, _, settings in self.modules:
            if kind == "Pooling":
                settings = {"modes": _pooling_modes(settings)} | {
                    "include_prompt": settings.get("include_prompt", True)
                }
            modules.append([kind, {} if kind == "Transformer" else settings])
        return [modules, {key: self.config[key] for key in CONFIG_KEYS if key in self.config}]


def read_layout(folder: str | Path) -> Layout:
    """Read and check a model folder without its weights.

    Raises:
        ModelError: The folder is missing, incomplete, needs pickle, or holds no text encoder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ModelError(f"Model folder {root} does not exist.")
    listed = _read_json(root / "modules.json") or [{"type": "Transformer", "path": ""}]
    modules = []
    for module in listed:
        kind, at = module["type"].rsplit(".", 1)[-1], root / module["path"]
        modules.append((kind, at, _module_settings(kind, at)))
    first, at, _ = modules[0]
    if first != "Transformer":
        raise ModelError(
            f"{root} is not a text encoder that can be hosted: it begins with {first}."
        )
    config = _read_json(at / "config.json")
    if not config:
        raise ModelError(f"{root} is no model folder: {at / 'config.json'} is missing.")
    if "vision_config" in config or str(config.get("model_type")).startswith("clip"):
        raise ModelError(f"{root} is not a text encoder: it is a {config.get('model_type')} model.")
    settings = _read_json(root / "config_sentence_transformers.json")
    made_for = settings.get("model_type", "SentenceTransformer")
    if made_for != "SentenceTransformer":
        raise ModelError(f"{root} is not a text encoder: it was saved as a {made_for}.")
    layout = Layout(root, modules, config, settings, not (root / "modules.json").exists())
    if layout.is_dpr:
        _dpr_class(layout)
    for kind, at, _ in modules:
        if kind in ("Transformer", "Dense") and not _safetensors(at):
            raise ModelError(_no_weights(at))
    if not any(
        p.name.startswith(("tokenizer.", "vocab.")) or p.suffix == ".model"
        for p in layout.tokenizer_files()
    ):
        raise ModelError(f"{root} has no tokenizer: expected tokenizer.json or a vocabulary.")
    return layout


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


def _read_json(path: Path) -> Any:  # noqa: ANN401
    """A JSON file's content, {} if there is no such file."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}. Download the model again.") from error


def _module_settings(kind: str, folder: Path) -> dict[str, Any]:
    """A module's own settings; the transformer's are sentence-transformers' about it."""
    names = sorted(folder.glob("sentence_*_config.json")) if kind == "Transformer" else []
    path = names[0] if names else folder / "config.json"
    return {} if kind == "Transformer" and not names else dict(_read_json(path))


def _pooling_modes(settings: dict[str, Any]) -> list[str]:
    """Names of the pooling modes, from the settings of any version of sentence-transformers."""
    modes = settings.get("pooling_mode")
    if modes:
        return [modes] if isinstance(modes, str) else list(modes)
    return [mode for key, mode in LEGACY_POOLING.items() if settings.get(key)] or ["mean"]


def _safetensors(folder: Path) -> list[Path]:
    """The safetensors files of one module, in one piece or in shards; empty if there are none."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    index = _read_json(folder / "model.safetensors.index.json")
    return [folder / name for name in sorted(set(index.get("weight_map", {}).values()))]


def _no_weights(folder: Path) -> str:
    """What to tell who gave a folder without safetensors."""
    if not any(path for pattern in PICKLES for path in folder.glob(pattern)):
        return f"{folder} has no weights: expected model.safetensors."
    return (
        f"{folder} has its weights only as pickle, which can run code; model.safetensors is needed."
        " If you trust the file: in Python, SentenceTransformer(FOLDER).save_pretrained(NEW_FOLDER)"
        " of sentence-transformers writes it (for DPR, DPRContextEncoder or DPRQuestionEncoder of"
        " transformers, and its tokenizer)."
    )


def _dpr_class(layout: Layout) -> str:
    """Which of DPR's encoders a folder holds; AutoModel takes each for the question encoder."""
    names = layout.config.get("architectures") or []
    if names not in (["DPRContextEncoder"], ["DPRQuestionEncoder"]):
        raise ModelError(
            f"{layout.folder} is not a text encoder: its config.json names {names or 'no class'},"
            " expected DPRContextEncoder or DPRQuestionEncoder."
        )
    return str(names[0])


def _load_dpr(layout: Layout, device: str) -> tuple[Network, Any]:
    """One of DPR's encoders, whose vector is its pooler output, and its tokenizer."""
    import torch
    import transformers

    folder = str(layout.folder)
    with _checked_loading(layout.folder, harmless=None):
        encoder = getattr(transformers, _dpr_class(layout)).from_pretrained(
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
