import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actors import recipes
from actors.checkpoints import resolve
from actors.engine.engine import Engine, Setup, Tokens
from actors.families import FAMILIES, Family, family_of
from actors.files.weights import hash_file
from actors.models import ModelError, ModelSpec


class CountingEncoder:
    """A text's vector says how often it holds each letter; what a file of `actors/encoders/` would be."""

    max_tokens = 100
    setup = Setup()

    def __init__(self, letters):
        self.letters, self.dim = letters, len(letters)

    def tokenize(self, texts):
        ids = [[ord(letter) for letter in text[: self.max_tokens]] for text in texts]
        return Tokens(ids, np.array([len(text) > self.max_tokens for text in texts], bool))

    def forward(self, ids):
        counts = [[text.count(ord(letter)) for letter in self.letters] for text in ids]
        vectors = np.array(counts, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def letters_of(folder):
    return json.loads(Path(folder, "letters.json").read_text())


def describe(folder):
    about = {"repository": "", "licence": "none", "source": "here", "pooling": "mean"}
    return ModelSpec(Path(folder).name, dim=len(letters_of(folder)), max_tokens=100, **about)


def identify(model):
    weights = hash_file(f"{model.folder}/letters.json")
    return recipes.identify(model, weights, settings=["letters"], tokenizer_files=[])


LETTERS = Family(
    recognises=lambda path: Path(path, "letters.json").is_file(),
    describe=describe,
    identify=identify,
    load=lambda model, machine: CountingEncoder(letters_of(model.folder)),
)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A folder of a family that one literal adds."""
    monkeypatch.setitem(FAMILIES, "letters", LETTERS)
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "letters.json").write_text('["a", "b", "c"]')
    return str(folder)


def test_one_literal_adds_a_family(toy):
    model = resolve(toy)
    assert (model.name, model.spec.family, model.dim) == ("toy", "letters", 3)
    encoded = Engine(model.load()).encode(["abba", "cab"])
    expected = np.array([[2, 2, 0], [1, 1, 1]]) / np.sqrt([[8], [3]])
    np.testing.assert_allclose(encoded.vectors, expected, rtol=1e-6)
    assert encoded.n_tokens.tolist() == [4, 3]


def test_what_shapes_its_vectors_is_in_its_recipe(toy):
    before = resolve(toy)
    assert len(before.space) == len(before.recipe) == 32
    assert resolve(toy, prompt="a").recipe != before.recipe
    assert resolve(toy, prompt="a").space == before.space
    Path(toy, "letters.json").write_text('["a", "b", "d"]')
    assert resolve(toy).space != before.space


def test_what_a_family_does_not_take_is_refused(toy):
    with pytest.raises(
        ModelError, match="toy is no file of word vectors; leave out --word-weights"
    ):
        resolve(toy, word_weights="w.json")
    with pytest.raises(ModelError, match="toy embeds text, and SOURCE holds images"):
        resolve(toy, modality="image")


def test_each_folder_has_the_family_that_its_files_say(tmp_path):
    def folder(name, **files):
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file.replace("_json", ".json")).write_text(json.dumps(content))
        return str(tmp_path / name)

    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    kinds = {
        kind: folder(kind, config_json={"model_type": kind}) for kind in ("clip", "resnet", "dpr")
    }
    assert {kind: family_of(path) for kind, path in kinds.items()} == {kind: kind for kind in kinds}
    pooled = folder("pooled", config_json={"model_type": "dpr"}, modules_json=modules)
    assert family_of(pooled) == family_of(folder("empty")) == "transformer"
    assert family_of(folder("bert", config_json={"model_type": "bert"})) == "transformer"
    (tmp_path / "words.vec").touch()
    (tmp_path / "words.doc").touch()
    assert family_of(str(tmp_path / "words.vec")) == "words"
    assert family_of(str(tmp_path / "words.doc")) is None


def test_families_are_known_without_torch():
    heavy = "{'torch', 'transformers', 'sentence_transformers', 'ray'} & set(sys.modules)"
    code = f"import sys, actors.families; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
