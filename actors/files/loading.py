"""Load models through transformers, without its messages, and refuse folders that lack weights."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.models import ModelError

# Weights that a text encoder may lack: those of a pooler that it does not use, and buffers.
HARMLESS = re.compile(r"(^|\.)pooler\.|position_ids$")


def load_whole(kind: Any, folder: str | Path, **options: Any) -> Any:  # noqa: ANN401
    """Load a model with all its weights, by one of transformers' classes.

    transformers fills in missing weights at random, and only logs it; here they are an error.

    Args:
        kind: A model class of transformers, or one of its AutoModels.
        folder: Folder with config.json and safetensors.
        options: Further arguments of `kind.from_pretrained`.

    Raises:
        ModelError: The folder lacks weights of the model.
    """
    with quiet_transformers():
        model, report = kind.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    lacking = sorted(key for key in map(str, report["missing_keys"]) if not HARMLESS.search(key))
    if lacking:
        raise ModelError(
            f"{folder} lacks weights of the model ({', '.join(lacking[:3])}, …), which would be"
            " random. Download the model again."
        )
    return model


def refuse_random_weights(model: Any, folder: str | Path) -> None:  # noqa: ANN401
    """Raise a ModelError if a model that other code has loaded lacks weights in its folder.

    The same class loads the folder once more without memory for its tensors (0.05 s for MiniLM), so that
    transformers itself matches names in files with names in the model: prefixes, tied weights, shards,
    renamed and merged tensors, buffers that no file holds.

    Args:
        model: Model of one of transformers' classes.
        folder: Folder that the model was loaded from.

    Raises:
        ModelError: The folder lacks weights of the model.
    """
    load_whole(type(model), folder, config=model.config, device_map="meta", local_files_only=True)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence warnings and progress bars of transformers during the block."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
