import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from actors.checkpoints import resolve
from actors.encoders.dpr import packed_dpr
from actors.encoders.transformer import TransformerEncoder
from actors.files.layout import read_layout
from actors.files.settings import POOLINGS, is_packable
from actors.kernels.attention import attend_by_length, attend_padded, group_by_length
from actors.kernels.linear import _onednn_linear, torch_linear
from tests.actors.encoders.test_transformer import (
    WORDS,
    assert_same,
    edit_json,
    reference,
    save_modules,
    save_plain,
    tokenizer,
)

FAMILIES = ["Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert", "MPNet"]
RNG = random.Random(5)
TEXTS = [" ".join(RNG.choices(WORDS[:20], k=k)) for k in (1, 30, 0, 59, 12, 2, *[7] * 20, 58)]
PADDING = ["a [PAD] fox [PAD]", "[PAD]", "a <pad> fox<pad>", "<pad><pad> dog", "the dog"]


def save_family(folder, kind):
    """Like `save_plain`; RoBERTa's other names share its weights and, here, its tokenizer."""
    other = {"XLMRoberta": "xlm-roberta", "Camembert": "camembert"}.get(kind)
    save_plain(folder, "Roberta" if other else kind)
    if other:
        edit_json(folder / "config.json", model_type=other, architectures=[f"{kind}Model"])
    return str(folder)


def encode(encoder, texts):
    """All texts in one micro-batch, in an order of mixed lengths."""
    return encoder.forward(encoder.tokenize(texts).ids)


def packed(folder, **options):
    encoder = TransformerEncoder(folder, **options)
    assert not encoder.setup.padded
    return encoder


@pytest.mark.parametrize("kind", FAMILIES)
def test_vectors_equal_the_reference_for_every_family_and_pooling(tmp_path, kind):
    folder = save_family(tmp_path, kind)
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    texts = TEXTS + PADDING
    tokens = packed(folder).tokenize(PADDING).ids
    assert sum(ids.count(model.tokenizer.pad_token_id) for ids in tokens) >= 3
    for pooling in POOLINGS:
        model[1].pooling_mode = pooling
        expected = model.encode(texts, normalize_embeddings=True)
        assert_same(encode(packed(folder, pooling=pooling), texts), expected)
        assert np.ptp(expected, axis=0).max() > 0.1


@pytest.mark.parametrize(("name", "width"), [("Context", 16), ("Question", 16), ("Context", 0)])
def test_dpr_projects_its_first_token(tmp_path, name, width):
    folder = save_plain(tmp_path, "DPR", f"DPR{name}Encoder")
    config = transformers.DPRConfig.from_pretrained(folder, projection_dim=width)
    model = randomised(getattr(transformers, f"DPR{name}Encoder")(config))
    model.save_pretrained(folder)
    encoder = packed(folder, normalize=False, network=packed_dpr)
    assert encoder.dim == resolve(folder).dim == (width or 32)
    batch = tokenizer("DPR")(TEXTS, padding=True, return_tensors="pt", truncation=True)
    with torch.inference_mode():
        assert_same(encode(encoder, TEXTS), model(**batch).pooler_output.numpy())


def randomised(model):
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_mpnet_sees_distances_beyond_its_last_bucket(tmp_path):
    save_plain(tmp_path, "MPNet")
    config = transformers.MPNetConfig.from_pretrained(tmp_path, max_position_embeddings=300)
    torch.manual_seed(7)
    randomised(transformers.MPNetModel(config)).save_pretrained(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", model_max_length=298)
    texts = [" ".join(RNG.choices(WORDS[:20], k=k)) for k in (296, 5, 130, 295, 400, 127, 128, 129)]
    encoder = packed(str(tmp_path), pooling="cls")
    assert encoder.max_tokens == 298
    assert_same(encode(encoder, texts), reference(str(tmp_path), texts, pooling="cls"))


def test_dense_modules_and_prompts_are_packed(tmp_path):
    more = [Dense(32, 24), Normalize(), Dense(24, 8, activation_function=torch.nn.Identity())]
    folder = save_modules(tmp_path, *more, pooling="max")
    encoder = packed(folder, prompt="query: ")
    assert_same(encode(encoder, TEXTS), reference(folder, TEXTS, prompt="query: "))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder whose weights are the same numbers in all dtypes, and its vectors of TEXTS."""
    folder = save_plain(tmp_path_factory.mktemp("bert"))
    held = load_file(f"{folder}/model.safetensors")
    store(folder, {name: (64 * weight).round() / 64 for name, weight in held.items()})
    return folder, reference(folder, TEXTS)


def store(folder, weights):
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})


def as_tensorflow(folder, weights):
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, old in names.items():
        weights = {name.replace(new, old): weight for name, weight in weights.items()}
    store(folder, weights)


def in_shards(folder, weights):
    names = sorted(weights)
    files = {f"model-{part}.safetensors": names[part::3] for part in range(3)}
    for file, held in files.items():
        save_file({name: weights[name] for name in held}, f"{folder}/{file}")
    index = {name: file for file, held in files.items() for name in held}
    Path(folder, "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    Path(folder, "model.safetensors").unlink()


def under_a_head(folder, weights):
    head = {"cls.predictions.transform.LayerNorm.weight": torch.ones(32)}
    store(folder, {f"bert.{name}": weight for name, weight in weights.items()} | head)


def in_bfloat16(folder, weights):
    store(folder, {name: weight.bfloat16() for name, weight in weights.items()})


def in_float16(folder, weights):
    store(folder, {name: weight.half() for name, weight in weights.items()})


@pytest.mark.parametrize(
    "write",
    [as_tensorflow, in_shards, under_a_head, in_bfloat16, in_float16],
    ids=lambda f: f.__name__,
)
def test_how_weights_are_stored_leaves_vectors_as_they_are(bert, tmp_path, write):
    folder, expected = bert
    for file in Path(folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write(tmp_path, load_file(f"{folder}/model.safetensors"))
    assert_same(encode(packed(tmp_path), TEXTS), expected)


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert", "MPNet"])
def test_weights_of_a_masked_language_model_are_found(tmp_path, kind):
    folder = save_plain(tmp_path, kind, f"{kind}ForMaskedLM")
    assert_same(encode(packed(folder), TEXTS), reference(folder, TEXTS))


def settings(path, **changes):
    return lambda folder: edit_json(Path(folder) / path, **changes)


UNKNOWN = {
    "pooling": (dict(pooling="mean_sqrt_len_tokens"), None),
    "decoder": ({}, settings("config.json", is_decoder=True)),
    "relative": ({}, settings("config.json", position_embedding_type="relative_key")),
    "silu": ({}, settings("config.json", hidden_act="silu")),
    "lower": ({}, settings("sentence_bert_config.json", do_lower_case=True)),
    "prompt": (dict(include_prompt=False), None),
    "dense": (dict(more=[Dense(32, 8, activation_function=torch.nn.ReLU())]), None),
    "two poolings": (dict(pooling=("mean", "cls")), None),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_hosted_by_its_own_modules(tmp_path, name):
    options, change = UNKNOWN[name]
    folder = save_modules(tmp_path, *options.pop("more", []), **options)
    if change:
        change(folder)
    prompt = "query: " if name == "prompt" else ""
    encoder = TransformerEncoder(folder, prompt=prompt)
    assert encoder.setup.padded
    assert_same(encode(encoder, TEXTS), reference(folder, TEXTS, prompt=prompt or None))
    if prompt:
        packed(folder)  # there is nothing to leave out


def test_a_pooling_given_from_outside_decides(tmp_path):
    layout = read_layout(save_plain(tmp_path))
    assert [is_packable(layout, p, prompt=False) for p in (None, "max", "lasttoken")] == [
        *(True, True, False)
    ]
    assert is_packable(layout, "cls", prompt=True)
    edit_json(tmp_path / "config.json", model_type="electra")
    assert not is_packable(read_layout(tmp_path), None, prompt=False)


@pytest.mark.parametrize("n_rows", [1, 3000])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)], ids=["fp32", "bf16"]
)
def test_both_layouts_of_a_linear_layer_give_the_same(n_rows, dtype, tolerance):
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no oneDNN layout for bf16")
    torch.manual_seed(1)
    x, weight, bias = (torch.randn(*n).to(dtype) for n in ((n_rows, 48), (40, 48), (40,)))
    exact = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    with torch.inference_mode():
        for make in (torch_linear, _onednn_linear):
            out = make(weight, bias)(x)
            assert (out.dtype, out.shape) == (dtype, (n_rows, 40))
            torch.testing.assert_close(out.double(), exact, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("biased", "causal"), [(False, False), (True, False), (False, True)])
def test_attention_over_padded_texts_equals_attention_by_length(biased, causal):
    torch.manual_seed(1)
    lengths = np.array([3, 9, 1, 1, 5, 9, 9])
    qkv, bias = torch.randn(lengths.sum(), 3 * 32), torch.randn(4, 2 * 12 - 1) if biased else None
    held = np.arange(lengths.max()) < lengths[:, None]
    slots = torch.from_numpy(np.flatnonzero(held))
    groups = list(group_by_length(lengths.tolist()))
    assert groups[1:3] == [(3, 1, 9), (12, 2, 1)]
    expected = attend_by_length(4, groups, bias, causal, qkv)
    got = attend_padded(4, torch.from_numpy(held), slots, bias, causal, qkv)
    torch.testing.assert_close(got, expected)


def test_a_forward_pass_from_four_threads_at_once_is_the_one_alone(bert):
    encoder = packed(bert[0])
    rng = random.Random(3)
    batches = [encoder.tokenize(rng.sample(TEXTS, 9)).ids for _ in range(40)]
    alone = list(map(encoder.forward, batches))
    with ThreadPoolExecutor(4) as lanes:
        for vectors, expected in zip(lanes.map(encoder.forward, batches), alone, strict=True):
            np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6)
