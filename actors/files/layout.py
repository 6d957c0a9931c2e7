"""Reader of a model folder's settings, without torch and without the weights.

read_layout("models/all-MiniLM-L6-v2").dim
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.files.defaults import with_defaults
from actors.models import ModelError

PICKLES = ("pytorch_model*.bin", "*.pt", "*.ckpt")
ADAPTERS = ("adapter_config.json", "adapter_model*.safetensors", "adapter_model*.bin")
TOKENIZER_FILES = (
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "sentence_*_config.json"),
    *("vocab.*", "merges.txt", "*.model"),
)
# Kinds of models whose learned positions begin after the padding index.
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl")
CORPUS_PROMPTS = ("document", "passage", "corpus")  # names that encode_document looks for
LEGACY_POOLING = {  # settings of sentence-transformers before 6, in its order
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
UNLIMITED = 1 << 20  # stands for the limit of tokens where neither tokenizer nor positions set one


@dataclass(frozen=True)
class Layout:
    """Settings of a model folder, as its JSON files say them.

    Attributes:
        folder: Folder of the model.
        modules: Class name, folder and settings of each module; the transformer comes first.
        config: Content of the transformer's config.json, with defaults.
        settings: Content of config_sentence_transformers.json, on the whole model.
        plain: True if the folder has no modules.json: transformers' own layout, without pooling.
    """

    folder: Path
    modules: list[tuple[str, Path, dict[str, Any]]]
    config: dict[str, Any]
    settings: dict[str, Any]
    plain: bool

    @property
    def pooling(self) -> str:
        """Pooling modes, joined by "+"; for a plain folder sentence-transformers' default."""
        for kind, _, settings in self.modules:
            if kind == "Pooling":
                return "+".join(pooling_modes(settings))
        causal = str((self.config.get("architectures") or [""])[0]).endswith("ForCausalLM")
        return "lasttoken" if causal and self.config.get("is_causal", True) else "mean"

    @property
    def dim(self) -> int:
        """Length of a vector."""
        config = self.config
        hidden = config.get("hidden_size") or config.get("dim") or config.get("d_model") or 0
        dim = int(hidden)
        for kind, _, settings in self.modules:
            if kind == "Pooling":
                width = settings.get(
                    "embedding_dimension", settings.get("word_embedding_dimension")
                )
                dim = int(width or hidden) * len(pooling_modes(settings))
            elif kind == "Dense":
                dim = int(settings["out_features"])
        return min(dim, int(self.settings.get("truncate_dim") or dim))

    @property
    def positions(self) -> int:
        """Number of tokens that the transformer has positions for."""
        n = self.config.get("max_position_embeddings") or UNLIMITED
        offset = self.config.get("model_type") in OFFSET_POSITIONS
        return int(n) - (int(self.config.get("pad_token_id", 1)) + 1 if offset else 0)

    @property
    def max_tokens(self) -> int:
        """Tokens after which a text is cut, by the model's own settings."""
        _, folder, settings = self.modules[0]
        tokenizer = _read_json(folder / "tokenizer_config.json")
        said = settings.get("max_seq_length") or tokenizer.get("model_max_length") or UNLIMITED
        return int(min(said, self.positions))

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by name; the first is the corpus's, an empty one if it has none. {} without prompts."""
        prompts = {k: v for k, v in (self.settings.get("prompts") or {}).items() if v is not None}
        named = (self.settings.get("default_prompt_name"), *CORPUS_PROMPTS)
        first = next((name for name in named if name in prompts), None)
        return ({first: prompts[first]} if first else {"none": ""}) | prompts if prompts else {}

    def weight_files(self) -> dict[str, list[Path]]:
        """Safetensors files of each module that has weights, by the module's index and class name."""
        files = {f"{i} {kind}": _safetensors(at) for i, (kind, at, _) in enumerate(self.modules)}
        return {module: found for module, found in files.items() if found}

    def tokenizer_files(self) -> list[Path]:
        """Files of the tokenizer, sorted: they decide which tokens a text becomes."""
        folder = self.modules[0][1]
        return sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)})


def read_layout(folder: str | Path) -> Layout:
    """Read and check a model folder of any family, without its weights.

    Raises:
        ModelError: The folder is missing or incomplete, has its weights only as pickle, or holds a kind
            of model that is not supported.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ModelError(f"Model folder {root} does not exist.")
    refuse_adapters(root)
    listed = _read_json(root / "modules.json", list) or [{"type": "Transformer", "path": ""}]
    modules = []
    for module in listed:
        kind, at = module["type"].rsplit(".", 1)[-1], root / module["path"]
        modules.append((kind, at, _module_settings(kind, at)))
    first, at, _ = modules[0]
    if first == "StaticEmbedding":
        raise ModelError(
            f"{root} is a StaticEmbedding of sentence-transformers: one vector a token and no network"
            " behind them. Such models are not hosted yet; give a transformer."
        )
    if first not in ("Transformer", "CLIPModel"):
        raise ModelError(
            f"{root} is not a text encoder that can be hosted: it begins with {first}."
        )
    config = _read_json(at / "config.json")
    if not config:
        raise ModelError(f"{root} is no model folder: {at / 'config.json'} is missing.")
    settings = _read_json(root / "config_sentence_transformers.json")
    made_for = settings.get("model_type", "SentenceTransformer")
    if made_for != "SentenceTransformer":
        raise ModelError(f"{root} is not a text encoder: it was saved as a {made_for}.")
    for kind, at, _ in modules:
        needs = kind in ("Transformer", "CLIPModel", "Dense") or _pickles(at)
        if needs and not _safetensors(at):
            raise ModelError(_no_weights(at))
    plain = not (root / "modules.json").exists()
    return Layout(root, modules, with_defaults(config), settings, plain)


def read_text_layout(folder: str | Path) -> Layout:
    """Read and check the folder of a transformer of texts.

    Raises:
        ModelError: As `read_layout`; or the model also embeds images, or has no tokenizer.
    """
    layout = read_layout(folder)
    kind = str(layout.config.get("model_type"))
    if kind.startswith("siglip"):
        raise ModelError(
            f"{folder} is a SigLIP model ({kind}). Of models with towers for texts and images only CLIP"
            " is hosted yet; give a CLIP."
        )
    if "vision_config" in layout.config or kind.startswith("clip"):
        raise ModelError(f"{folder} is not a text encoder: it is a {kind} model.")
    require_tokenizer(layout)
    return layout


def require_tokenizer(layout: Layout) -> None:
    """Raise a ModelError if a folder has no tokenizer."""
    if not any(
        p.name.startswith(("tokenizer.", "vocab.")) or p.suffix == ".model"
        for p in layout.tokenizer_files()
    ):
        raise ModelError(
            f"{layout.folder} has no tokenizer: expected tokenizer.json or a vocabulary."
        )


def main_folder(path: str | Path) -> Path:
    """Folder of a model's first module, which holds config.json."""
    listed = _read_json(Path(path) / "modules.json", list)
    return Path(path) / (listed[0]["path"] if listed else "")


def model_type_of(path: str | Path) -> str:
    """`model_type` in the config.json of a model folder; "" if there is none."""
    return str(_read_json(main_folder(path) / "config.json").get("model_type", ""))


def refuse_adapters(folder: Path) -> None:
    """Raise a ModelError if a folder holds an adapter, since vectors would lack its changes to the weights.

    Checkpoints of a training are passed over, since nobody loads them with the folder.

    Raises:
        ModelError: There is an adapter; the message says how to merge it.
    """
    for path in sorted(path for name in ADAPTERS for path in folder.rglob(name)):
        place = path.relative_to(folder)
        if any(part.startswith("checkpoint-") for part in place.parts):
            continue
        config = _read_json(path.parent / "adapter_config.json", object)
        base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
        raise ModelError(
            f"{folder} holds an adapter ({place}), which embatch does not apply. Merge it into"
            f" {base or 'its base model'}: in Python, with peft, m ="
            f" AutoPeftModelForFeatureExtraction.from_pretrained({str(path.parent)!r}), then"
            " m.merge_and_unload().save_pretrained(NEW_FOLDER); put the tokenizer's files beside it and"
            " give NEW_FOLDER. If the weights are meant without it, move it out of the folder."
        )


def _read_json(path: Path, kind: type = dict) -> Any:  # noqa: ANN401
    """Content of a JSON file of the kind expected; an empty one if there is no such file."""
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}. Download the model again.") from error
    if not isinstance(content, kind):
        raise ModelError(
            f"{path} holds a {type(content).__name__}, expected a {kind.__name__}."
            " Download the model again."
        )
    return content


def _module_settings(kind: str, folder: Path) -> dict[str, Any]:
    """Settings of a module; for a transformer those of sentence_*_config.json, not its config.json."""
    first = kind in ("Transformer", "CLIPModel")
    names = sorted(folder.glob("sentence_*_config.json")) if first else []
    path = names[0] if names else folder / "config.json"
    return {} if first and not names else dict(_read_json(path))


def pooling_modes(settings: dict[str, Any]) -> list[str]:
    """Names of pooling modes, read from settings of any version of sentence-transformers."""
    modes = settings.get("pooling_mode")
    if modes:
        return [modes] if isinstance(modes, str) else list(modes)
    return [mode for key, mode in LEGACY_POOLING.items() if settings.get(key)] or ["mean"]


def _safetensors(folder: Path) -> list[Path]:
    """Safetensors files of a module, one or several shards; empty if there are none."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    index = _read_json(folder / "model.safetensors.index.json")
    return [folder / name for name in sorted(set(index.get("weight_map", {}).values()))]


def _pickles(folder: Path) -> list[Path]:
    return [path for pattern in PICKLES for path in folder.glob(pattern)]


def _no_weights(folder: Path) -> str:
    """Message for a folder without safetensors, with a way to make them."""
    if not _pickles(folder):
        return f"{folder} has no weights: expected model.safetensors."
    return (
        f"{folder} has its weights only as pickle, which can run code; model.safetensors is needed."
        " If you trust the file: in Python, SentenceTransformer(FOLDER).save_pretrained(NEW_FOLDER)"
        " of sentence-transformers writes it (for DPR, DPRContextEncoder or DPRQuestionEncoder of"
        " transformers, and its tokenizer)."
    )
