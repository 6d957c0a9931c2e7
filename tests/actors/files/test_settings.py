import json

import pytest
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from actors.checkpoints import resolve
from actors.encoders.transformer import TransformerEncoder
from actors.engine.engine import Engine
from actors.files.defaults import BERTS, CLIP_TOWERS
from actors.files.layout import read_layout
from actors.files.settings import (
    DENSE_DEFAULTS,
    SIZES,
    distinctive_settings,
    module_settings,
    transformers_settings,
)
from actors.models import ModelError
from tests.actors.encoders.test_transformer import (
    SHORT,
    assert_same,
    edit_json,
    reference,
    save_modules,
    save_plain,
)

SMALL = dict(vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2)
SMALL |= dict(intermediate_size=20, pad_token_id=0, bos_token_id=1, eos_token_id=2)
KINDS = {
    "ModernBert": SMALL | dict(cls_token_id=1, sep_token_id=2),
    "Qwen3": SMALL | dict(num_key_value_heads=1),
    "Gemma3Text": SMALL | dict(num_key_value_heads=1, head_dim=8),
    "Mistral": SMALL | dict(num_key_value_heads=1),
    "T5": dict(vocab_size=30, d_model=16, num_layers=2, num_heads=2, d_ff=20, d_kv=8),
}
# Of each kind one setting that shapes vectors and leaves no trace in the weights.
CHANGES = [
    ("ModernBert", {"local_attention": 64}),
    ("ModernBert", {"layer_types": ["full_attention"] * 3}),
    ("ModernBert", {"rope_parameters": {"full_attention": {"rope_theta": 80_000.0}}}),
    ("Qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    ("Qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    ("Qwen3", {"rms_norm_eps": 1e-5}),
    ("Gemma3Text", {"use_bidirectional_attention": True}),
    ("Gemma3Text", {"query_pre_attn_scalar": 24}),
    ("Mistral", {"sliding_window": None}),
    ("T5", {"relative_attention_num_buckets": 16}),
    ("T5", {"is_causal": False}),  # no field of the class: some networks read those too
]


def config_of(kind, **changes):
    return getattr(transformers, f"{kind}Config")(**KINDS[kind] | changes)


def written(folder, config):
    """A config as transformers saves it; returns its file."""
    config.save_pretrained(folder)
    return folder / "config.json"


@pytest.fixture
def encoder_folder(tmp_path):
    """A folder that can be resolved, and what writes another config into it; weights stay."""
    import torch
    from tokenizers import Tokenizer, models

    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"layers.2.weight": torch.ones(3)}, folder / "model.safetensors")
    Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")).save(
        str(folder / "tokenizer.json")
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 100}))

    def write(config):
        written(folder, config)
        return folder

    return write


@pytest.mark.parametrize(("kind", "change"), CHANGES, ids=lambda x: x if isinstance(x, str) else "")
def test_same_weights_and_another_setting_are_another_space_and_recipe(
    encoder_folder, kind, change
):
    before = resolve(str(encoder_folder(config_of(kind))))
    again = resolve(str(encoder_folder(config_of(kind))))
    after = resolve(str(encoder_folder(config_of(kind, **change))))
    assert before == again
    assert after.space != before.space
    assert after.recipe != before.recipe


@pytest.mark.parametrize("kind", KINDS)
def test_a_default_left_out_or_written_out_is_the_same(tmp_path, kind):
    path = written(tmp_path, config_of(kind))
    told = transformers_settings(tmp_path)
    whole = json.loads(path.read_text())
    usual = getattr(transformers, f"{kind}Config")().to_dict()
    short = {k: v for k, v in whole.items() if k == "model_type" or v != usual.get(k)}
    short.pop("layer_types", None)  # follows from the number of layers
    assert len(short) < len(whole) - 5
    path.write_text(json.dumps(short))
    assert transformers_settings(tmp_path) == told
    assert told == {
        key: value
        for key, value in (KINDS[kind] | {"model_type": whole["model_type"]}).items()
        if value != usual.get(key) or key == "model_type"
    }


def test_old_and_new_names_of_one_setting_are_the_same(tmp_path):
    path = written(tmp_path, config_of("Qwen3", rope_parameters={"rope_theta": 1e6}))
    told = transformers_settings(tmp_path)
    assert told["rope_parameters"] == {"rope_theta": 1_000_000, "rope_type": "default"}
    old = json.loads(path.read_text())
    del old["rope_parameters"]
    path.write_text(json.dumps(old | {"rope_theta": 1_000_000}))
    assert transformers_settings(tmp_path) == told


def test_bookkeeping_is_not_told(tmp_path):
    path = written(tmp_path, config_of("ModernBert"))
    told = transformers_settings(tmp_path)
    edit_json(path, _name_or_path="elsewhere", transformers_version="4.1", torch_dtype="bfloat16")
    edit_json(path, id2label={"0": "a"}, attention_dropout=0.3, initializer_range=0.5)
    edit_json(path, architectures=["ModernBertForMaskedLM"], use_cache=False)
    assert transformers_settings(tmp_path) == told


def test_nested_settings_are_told(tmp_path):
    text = {k: v for k, v in KINDS["Gemma3Text"].items() if not k.endswith("_token_id")}
    config = transformers.Gemma3Config(text_config=text)
    told = distinctive_settings(config)
    assert told["text_config"] == distinctive_settings(config.text_config)
    config.text_config.query_pre_attn_scalar = 24
    assert distinctive_settings(config)["text_config"]["query_pre_attn_scalar"] == 24


def test_a_newer_transformers_that_knows_more_settings_changes_nothing():
    from dataclasses import field

    from huggingface_hub.dataclasses import strict

    @strict
    class Newer(transformers.Qwen3Config):
        scale_of_queries: float = 1.0
        halves: list | None = None  # follows from another setting
        words: dict | None = field(default_factory=dict)

        def __post_init__(self, **kwargs):
            self.halves = self.halves or [self.num_hidden_layers // 2]
            super().__post_init__(**kwargs)

    older = transformers.Qwen3Config(**KINDS["Qwen3"])
    assert distinctive_settings(Newer(**KINDS["Qwen3"])) == distinctive_settings(older)
    assert distinctive_settings(
        Newer(**KINDS["Qwen3"], scale_of_queries=0.5)
    ) != distinctive_settings(older)
    assert distinctive_settings(Newer(**KINDS["Qwen3"], halves=[2])) != distinctive_settings(older)


def test_a_config_that_makes_no_sense_is_refused_by_its_file(encoder_folder):
    folder = encoder_folder(config_of("Qwen3"))
    edit_json(folder / "config.json", num_hidden_layers="three")
    with pytest.raises(ModelError, match=r"transformers 5.* no sense of .*model/config.json: Val"):
        resolve(str(folder))
    edit_json(folder / "config.json", model_type="unheard-of")
    with pytest.raises(ModelError, match="makes no sense of .*unheard-of"):
        resolve(str(folder))


# What this project computes itself

FAMILIES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "mpnet": "MPNet"}


def test_defaults_are_those_of_transformers():
    names = FAMILIES | {"dpr": "DPR", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
    assert names.keys() == BERTS.keys()
    for kind, name in names.items():
        config = getattr(transformers, f"{name}Config")()
        assert {key: getattr(config, key) for key in BERTS[kind]} == BERTS[kind]
    for tower, known in CLIP_TOWERS.items():
        config = getattr(transformers.CLIPConfig(), tower)
        assert {key: getattr(config, key) for key in known} == known


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *(("Bert", {"num_attention_heads": 2}), ("Bert", {"layer_norm_eps": 1e-6})),
        *(("Bert", {"num_hidden_layers": 1}), ("Bert", {"hidden_act": "relu"})),
        *(("Bert", {"hidden_act": "gelu_new"}), ("Bert", {"is_decoder": True})),
        *(("Roberta", {"pad_token_id": 0}), ("DistilBert", {"n_layers": 1})),
        ("DistilBert", {"activation": "relu"}),
    ],
)
def test_what_the_own_network_reads_changes_the_space(tmp_path, kind, change):
    folder = save_plain(tmp_path, kind)
    before = resolve(folder)
    path = tmp_path / "config.json"
    held = json.loads(path.read_text())
    assert not change.items() <= held.items()
    path.write_text(json.dumps(held | change))
    after = resolve(folder, max_tokens=before.max_tokens)
    assert after.space != before.space
    assert after.recipe != before.recipe
    # The vectors are those of the other setting.
    assert_same(
        Engine(TransformerEncoder(folder), token_budget=256).encode(SHORT).vectors,
        reference(folder, SHORT),
    )


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_default_of_the_own_network_may_be_left_out(tmp_path, kind):
    name = FAMILIES[kind]
    torch_config = getattr(transformers, f"{name}Config")
    shapes = {"hidden_size": 24, "num_attention_heads": 12, "num_hidden_layers": 1}
    config = torch_config(vocab_size=300, max_position_embeddings=512, pad_token_id=1, **shapes)
    folder = save_plain(tmp_path, name)  # for its tokenizer
    getattr(transformers, f"{name}Model")(config).save_pretrained(tmp_path)
    before = resolve(folder, max_tokens=62)
    path = tmp_path / "config.json"
    held, usual = json.loads(path.read_text()), torch_config().to_dict()
    short = {k: v for k, v in held.items() if k == "model_type" or v != usual.get(k)}
    assert set(held) - set(short) >= (set(BERTS[kind]) - {*shapes, *SIZES, "n_layers"})
    path.write_text(json.dumps(short))
    assert resolve(folder, max_tokens=62) == before
    TransformerEncoder(folder).forward([[1, 2, 3]])


def test_the_second_settings_of_an_early_clip_count(tmp_path):
    config = transformers.CLIPConfig().to_dict()
    config["text_config_dict"] = {"num_attention_heads": 4, "num_hidden_layers": 3}
    config["vision_config_dict"] = None
    config["vision_config"]["patch_size"] = 16
    import torch

    save_file({"logit_scale": torch.ones(())}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    loaded = transformers.CLIPConfig.from_pretrained(tmp_path)
    layout = read_layout(tmp_path)
    for tower, known in CLIP_TOWERS.items():
        assert {key: getattr(getattr(loaded, tower), key) for key in known} == layout.config[tower]


def test_modules_are_the_same_however_they_are_written():
    old = {"in_features": 4, "out_features": 2, "bias": True, "activation_function": "torch.x"}
    new = old | {"module_input_name": "sentence_embedding", "module_output_name": None}
    assert module_settings("Dense", new | {"use_residual": False}) == old
    short = {"in_features": 4, "out_features": 2}
    assert module_settings("Dense", short) == DENSE_DEFAULTS | short
    assert module_settings("Dense", old | {"bias": False, "use_residual": True}) != old
    assert module_settings("Normalize", {"module_input_name": "sentence_embedding"}) == {}
    assert module_settings("LayerNorm", {"dimension": 4}) == {"dimension": 4}


@pytest.mark.parametrize(
    "module", [Dense(32, 32, use_residual=True), Normalize("token_embeddings")], ids=["res", "norm"]
)
def test_modules_that_do_more_are_hosted_as_they_are(tmp_path, module):
    folder = save_modules(tmp_path, module)
    encoder = TransformerEncoder(folder)
    assert encoder.setup.padded
    assert_same(Engine(encoder, token_budget=256).encode(SHORT).vectors, reference(folder, SHORT))


def test_layers_that_the_weights_hold_need_not_be_told(tmp_path):
    folder = save_plain(tmp_path)
    before = resolve(folder)
    edit_json(tmp_path / "config.json", num_hidden_layers=1)
    fewer = resolve(folder)
    held = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in held.items() if ".layer.1." not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert len({before.space, fewer.space, resolve(folder).space}) == 3


def test_tables_of_earlier_versions_stay_current():
    model = resolve("all-MiniLM-L6-v2")
    assert model.space == "a8b9e99dfa7ce679bec29161f6c35f9c"
    assert model.recipe == "4e46c7b5f9ea881470db2a125a694ca2"
