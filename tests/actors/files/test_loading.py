import json
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file

from actors.encoders.modules import load_modules
from actors.files.layout import read_layout
from actors.files.loading import load_whole
from actors.models import ModelError
from tests.support.tiny_bert import tiny_bert


@pytest.fixture(params=["BertModel", "BertForMaskedLM"])
def folder(tmp_path, request):
    """A model whose names have no prefix, and one whose names have one, and tied weights."""
    return tiny_bert(tmp_path / "model", ["a", "b"], request.param)


def without(folder, part):
    """Take the first weight with a part in its name out of a folder; its name."""
    weights = load_file(f"{folder}/model.safetensors")
    lost = next(name for name in weights if part in name)
    del weights[lost]
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    return lost.removeprefix("bert.")


def test_what_others_load_is_refused_where_a_weight_would_be_random(folder):
    load_modules(read_layout(folder))
    lost = without(folder, "output.dense.weight")
    with pytest.raises(ModelError, match=f"lacks weights of the model .{lost}, .*would be random"):
        load_modules(read_layout(folder))


def test_shards_are_seen_as_one(folder):
    model = transformers.AutoModel.from_pretrained(folder)
    Path(folder, "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="8KB")
    load_modules(read_layout(folder))
    lost = "encoder.layer.1.output.dense.weight"
    shard = json.loads(Path(folder, "model.safetensors.index.json").read_text())["weight_map"][lost]
    weights = load_file(f"{folder}/{shard}")
    del weights[lost]
    save_file(weights, f"{folder}/{shard}", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"lacks weights of the model .{lost}"):
        load_modules(read_layout(folder))


def test_what_transformers_loads_itself_is_refused_too(folder):
    with pytest.raises(ModelError, match="lacks weights of the model .qa_outputs"):
        load_whole(transformers.AutoModelForQuestionAnswering, folder)
