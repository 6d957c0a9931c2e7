"""Loading through transformers: quietly, and refusing weights that it would draw at random."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.models import ModelError

# Weights that a text encoder may lack: a pooler that its vectors do not go through, and buffers.
HARMLESS = re.compile(r"(^|\.)pooler\.|position_ids$")


@contextmanager
def checked_loading(folder: Path) -> Iterator[None]:
    """Refuse weights that transformers would draw at random since the folder lacks them.

    transformers only logs it. It reports the missing keys when asked to, but sentence-transformers
    passes no such request on, so it is added to each call here; its own log is kept off.
    """
    from transformers import PreTrainedModel

    original = PreTrainedModel.__dict__["from_pretrained"]
    missing: set[str] = set()

    def from_pretrained(cls: type, /, *args: object, **kwargs: object) -> object:
        model, report = original.__func__(cls, *args, output_loading_info=True, **kwargs)
        missing.update(map(str, report["missing_keys"]))
        return model

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    try:
        with quiet_transformers():
            yield
    finally:
        PreTrainedModel.from_pretrained = original
    lacking = sorted(key for key in missing if not HARMLESS.search(key))
    if lacking:
        raise ModelError(
            f"{folder} lacks weights of the model ({', '.join(lacking[:3])}, …), which would be"
            " random. Download the model again."
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Neither warnings nor progress bars of transformers."""
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
