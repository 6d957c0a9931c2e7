"""Random BERTs of a few thousand weights, for tests of what is done with a model."""

import torch
import transformers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_bert(folder, words, model_class="BertModel", seed=7, **config):
    """Save one, with its tokenizer of whole words, as transformers does; returns where."""
    torch.manual_seed(seed)
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *sorted(set(words))])}
    tokenizer = transformers.BertTokenizer(vocab=vocabulary, model_max_length=62)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    kind = transformers.DPRConfig if model_class.startswith("DPR") else transformers.BertConfig
    told = kind(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)
    model = getattr(transformers, model_class)(told).eval()
    for parameter in model.parameters():  # at the usual 0.02 all texts would look alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.config.update(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
