"""What the options name: the source, listed, and the model, found but not loaded."""

from actors.checkpoints import resolve
from actors.engine.templates import BARE
from jobs.sync.config import EmbedConfig
from jobs.sync.model import SyncModel
from sources import Source, SourceOptions, open_source


def source_of(config: EmbedConfig, templates: tuple[str, ...] = ()) -> Source:
    """What SOURCE is; names of classes are put into the templates, where there are some.

    Raises:
        SourceError: it does not exist, or lacks what was asked for.
    """
    return open_source(
        SourceOptions(
            path=config.source,
            text_column=_names(config.text_column),
            image_column=config.image_column or None,
            label_from_folder=config.label_from_folder,
            id_column=config.id_column or None,
            columns=_names(config.columns) or None,
            max_chars=config.max_chars or None,
            delimiter=config.delimiter,
            quote=config.quote,
            encoding=config.encoding,
            no_header=config.no_header,
            lines=config.lines,
            labels=config.labels,
            feeds=config.feeds,
            templates=templates or BARE,
            templates_asked=bool(config.template),
            storage_options=config.store,
        )
    )


def model_of(config: EmbedConfig, modality: str) -> SyncModel:
    """The model that was asked for, to embed "text" or "image", found but not loaded.

    Raises:
        ModelError: it is unknown, or does not embed what the source holds.
    """
    return resolve(
        config.model,
        prompt=config.prompt or None,
        max_tokens=config.max_tokens or None,
        modality=modality,
        labels=config.labels,
        templates=config.template,
        word_weights=config.word_weights,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
