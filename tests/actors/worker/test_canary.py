import hashlib
import io

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.modernbert import modeling_modernbert

from actors.checkpoints import resolve
from actors.encoders.transformer import TransformerEncoder
from actors.worker import canary
from actors.worker.canary import VALUES, canary_of
from schemas.canary import MOST_DISTANCE
from tests.actors.encoders.test_transformer import SMALL, save_plain


@pytest.fixture(scope="module")
def minilm():
    return resolve("all-MiniLM-L6-v2", max_tokens=512)


def test_the_items_are_those_of_their_version():
    pixels = [np.asarray(Image.open(io.BytesIO(file))).tobytes() for file in canary.images()]
    told = hashlib.sha256(b"".join([text.encode() for text in canary.texts()] + pixels))
    # Where this differs, tables would take other items for other vectors: raise VERSION.
    assert (canary.VERSION, told.hexdigest()[:16]) == (1, "43fbdf2c46375574")


def test_one_text_is_longer_than_512_tokens_and_they_differ(minilm):
    lengths = [len(text.split()) for text in canary.texts()]
    assert lengths[0] == 1
    assert lengths[-1] > 600
    values = canary_of(minilm.load(), None).values
    assert values.shape == (3, VALUES)
    directions = values / np.linalg.norm(values, axis=1, keepdims=True)
    assert (directions @ directions.T)[np.triu_indices(3, 1)].max() < 0.9


def test_rounding_is_no_difference_and_another_gelu_is_one(minilm, monkeypatch):
    held = canary_of(minilm.load(threads=1), None)
    assert held.distance(canary_of(minilm.load(threads=2), None)) < 1e-5
    assert held.distance(canary_of(minilm.load(precision="fp16"), None)) < MOST_DISTANCE
    wrong = {"gelu": lambda x: x.copy_(x * torch.sigmoid(1.702 * x))}
    monkeypatch.setattr("actors.kernels.packed.ACTIVATE", wrong)
    assert held.distance(canary_of(minilm.load(), None)) > 5 * MOST_DISTANCE


def test_what_only_long_texts_meet_is_seen(tmp_path, monkeypatch):
    """Attention that forgets its window moves no short text."""
    words = save_plain(tmp_path)  # for its tokenizer
    config = transformers.ModernBertConfig(
        vocab_size=60, local_attention=16, pad_token_id=0, cls_token_id=2, sep_token_id=3, **SMALL
    )
    torch.manual_seed(1)
    model = transformers.ModernBertModel(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(words)
    held = canary_of(TransformerEncoder(words, max_tokens=600), None)
    assert (
        held.made_with
        == f"torch {torch.__version__} and transformers {transformers.__version__} on cpu"
    )
    monkeypatch.setattr(
        modeling_modernbert,
        "create_bidirectional_sliding_window_mask",
        modeling_modernbert.create_bidirectional_mask,
    )
    now = canary_of(TransformerEncoder(words, max_tokens=600), None)
    apart = np.linalg.norm(held.values - now.values, axis=1)
    assert apart[0] < 1e-5
    assert held.distance(now) == pytest.approx(apart[2], rel=0.1)
    assert apart[2] > 2 * MOST_DISTANCE


@pytest.mark.data
def test_images_are_seen_through_their_preparation(data_folder):
    import dataclasses

    model = resolve(str(data_folder / "clip_tiny"), modality="image")
    encoder = model.load()
    held = canary_of(encoder, model.preprocess)
    assert held.items == "images 1"
    assert held.values.shape == (3, 64)
    assert held.distance(canary_of(model.load(threads=1), model.preprocess)) < 1e-5
    bilinear = dataclasses.replace(model.preprocess, resample=Image.Resampling.BILINEAR)
    assert held.distance(canary_of(encoder, bilinear)) > MOST_DISTANCE


def test_a_text_without_a_known_word_is_left_out(royal):
    values = canary_of(resolve(royal + ".txt").load(), None).values
    assert np.isnan(values).all()
