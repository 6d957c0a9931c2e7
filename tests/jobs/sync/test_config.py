import dataclasses

import pytest

from jobs.sync.config import EmbedConfig
from schemas.errors import UsageError


def test_what_follows_from_the_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = EmbedConfig("a.csv", "table", "m", chunk_tokens=64, chunk_overlap=8)
    assert (config.uri, config.chunking) == (str(tmp_path / "table"), "64/8")
    assert dataclasses.replace(config, chunk_tokens=0, chunk_overlap=0).chunking == ""
    config = dataclasses.replace(config, storage_option=("key=a=b", "other="))
    assert config.store == {"key": "a=b", "other": ""}


@pytest.mark.parametrize("table", ["source", "source/table", "source/../source/deeper/table"])
def test_a_table_inside_its_source_is_refused(tmp_path, monkeypatch, table):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").mkdir()
    with pytest.raises(UsageError, match="TABLE .* lies inside SOURCE source"):
        EmbedConfig("source", table, "m").refuse_nesting()
    EmbedConfig("source", "source-table", "m").refuse_nesting()


def test_options_about_texts_are_named_where_images_are_read():
    EmbedConfig("photos", "table", "m", keep_images=True).refuse_text_options()
    with pytest.raises(UsageError, match="photos holds images; --prompt, --no-text is about texts"):
        EmbedConfig("photos", "table", "m", prompt="query", no_text=True).refuse_text_options()
