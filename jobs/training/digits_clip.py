"""Train a small CLIP that classifies scikit-learn's images of digits, in about a minute.

    python -m jobs.training.digits_clip FOLDER

writes FOLDER/model (in transformers' layout), FOLDER/test/DIGIT/NNNN.png (images held back from training)
and FOLDER/classes.txt. Nothing is downloaded: the tokenizer's vocabulary is the bytes, without merges.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

WORDS = "zero one two three four five six seven eight nine".split()
TEMPLATES = ("a photo of the number {}", "the digit {}")
EDGE, PATCH = 16, 4
EPOCHS, BATCH = 20, 32
SEED = 3


def tokenizer(folder: Path) -> "CLIPTokenizer":
    """CLIP tokenizer over single bytes, saved into a folder."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    symbols = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocab = {symbol: index for index, symbol in enumerate(symbols)}
    made = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=64)
    made.save_pretrained(folder)
    return made


def train(folder: Path, epochs: int = EPOCHS) -> None:
    """Train a CLIP on three of four images of digits, and save the model and the other images.

    Args:
        folder: of the results.
        epochs: passes over the images; after one epoch the model knows little.
    """
    import torch
    import transformers
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # the products are small, and threads would wait for each other
    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    mine, theirs, labels, held_out = train_test_split(
        images, digits.target, test_size=0.25, random_state=SEED, stratify=digits.target
    )
    words = tokenizer(folder / "model")
    tower = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        text_config={
            **tower,
            "num_hidden_layers": 2,
            "vocab_size": len(words),
            "max_position_embeddings": 64,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        vision_config={**tower, "num_hidden_layers": 4, "image_size": EDGE, "patch_size": PATCH},
        projection_dim=64,
    )
    model = transformers.CLIPModel(config)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": EDGE}, crop_size={"height": EDGE, "width": EDGE}
    )
    processor.save_pretrained(folder / "model")
    pixels = processor([Image.fromarray(one).convert("RGB") for one in mine], return_tensors="pt")
    pixels, labels = pixels["pixel_values"], torch.from_numpy(labels)
    chance = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 8e-4, total_steps=epochs * -(-len(labels) // BATCH)
    )
    model.train()
    for _ in range(epochs):
        order = torch.from_numpy(chance.permutation(len(labels)))
        for rows in torch.split(order, BATCH):
            template = TEMPLATES[chance.integers(len(TEMPLATES))]
            texts = words(
                [template.format(word) for word in WORDS], padding=True, return_tensors="pt"
            )
            out = model(pixel_values=pixels[rows], **texts)
            loss = torch.nn.functional.cross_entropy(out.logits_per_image, labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    model.eval().save_pretrained(folder / "model")
    for index, (image, digit) in enumerate(zip(theirs, held_out, strict=True)):
        path = folder / "test" / str(digit) / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    classes = "".join(f"{digit}: {word}\n" for digit, word in enumerate(WORDS))
    (folder / "classes.txt").write_text(classes, encoding="utf-8")
    (folder / "done.json").write_text(json.dumps({"epochs": epochs}), encoding="utf-8")


if __name__ == "__main__":
    train(Path(sys.argv[1]))
