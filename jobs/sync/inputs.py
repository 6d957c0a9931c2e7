"""Find the source and the model that the options of `embed` name; nothing is read or loaded yet."""

from actors.checkpoints import resolve
from actors.engine.precision import HostedModel
from actors.engine.templates import BARE
from jobs.sync.config import EmbedConfig
from sources import Source, SourceOptions, open_source


def source_of(config: EmbedConfig, templates: tuple[str, ...] = ()) -> Source:
    """Open the source of a run; its files are listed, not read.

    Args:
        config: options of the run.
        templates: sentences that class names are put into, for a source of class names.

    Raises:
        SourceError: there is no such source, or it lacks a column that an option names.
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


def model_of(config: EmbedConfig, modality: str) -> HostedModel:
    """Find the model of a run, without loading its weights.

    Args:
        config: options of the run.
        modality: `text` or `image`, which the model has to embed.

    Raises:
        ModelError: the model is unknown, or does not embed what the source holds.
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
