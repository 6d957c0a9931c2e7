import io
import json
import shutil
import zipfile
from csv import DictReader

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageOps
from sentence_transformers import SentenceTransformer

from actors import recipes
from actors.checkpoints import resolve
from actors.engine.engine import Engine
from actors.families import family_of
from actors.models import ModelError
from tests.support.pictures import noise_photos

TEXTS = ["a photo of a dog", "", "Zwei Hunde, 2 Katzen!", "seven " * 200, "a", "the digit 7"] * 3


def opened(data):
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


class Reference:
    """transformers' own towers, unit rows."""

    def __init__(self, folder):
        self.model = transformers.CLIPModel.from_pretrained(folder).eval()
        self.words = transformers.AutoTokenizer.from_pretrained(folder)
        self.images = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")

    @torch.inference_mode()
    def of_texts(self, texts):
        tokens = self.words(texts, padding=True, truncation=True, return_tensors="pt")
        return self._unit(self.model.get_text_features(**tokens).pooler_output)

    @torch.inference_mode()
    def of_images(self, images):
        pixels = self.images(images, return_tensors="pt")
        return self._unit(self.model.get_image_features(**pixels).pooler_output)

    def _unit(self, vectors):
        return torch.nn.functional.normalize(vectors, dim=1).numpy()


def save_clip(folder, data_folder, *, activation="quick_gelu", end=None, edge=32, full=False):
    """A CLIP with random weights and the real tokenizer."""
    shutil.copytree(data_folder / "clip_tokenizer", folder, dirs_exist_ok=True)
    config = transformers.CLIPConfig.from_pretrained(folder)
    if not full:
        for tower in (config.text_config, config.vision_config):
            tower.hidden_size, tower.intermediate_size = 48, 96
            tower.num_hidden_layers, tower.num_attention_heads = 3, 4
            tower.hidden_act = activation
        config.vision_config.image_size, config.vision_config.patch_size = edge, 8
        config.projection_dim = 40
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        settings |= {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    if end is not None:
        config.text_config.eos_token_id = end
    torch.manual_seed(8)
    model = transformers.CLIPModel(config)
    if not full:
        for name, weight in model.named_parameters():  # norms and biases that are not neutral
            torch.nn.init.normal_(weight, 1.0 if "norm" in name and "weight" in name else 0.0, 0.2)
    model.save_pretrained(folder)
    return str(folder)


def vectors_of_images(folder, data, **options):
    model = resolve(str(folder), modality="image")
    encoder = model.load(**options)
    return Engine(encoder).encode(np.stack([model.preprocess(file) for file in data])).vectors


def vectors_of_texts(folder, texts, **options):
    return Engine(resolve(str(folder)).load(**options)).encode(texts)


@pytest.mark.data
@pytest.mark.parametrize(
    "options",
    [{}, {"activation": "gelu"}, {"end": 49407}, {"edge": 36}],
    ids=["quick gelu", "gelu", "end by its id", "a rest that no patch sees"],
)
def test_both_towers_equal_the_reference(tmp_path, data_folder, options):
    folder = save_clip(tmp_path / "clip", data_folder, **options)
    reference, data = Reference(folder), noise_photos(12)
    images = vectors_of_images(folder, data, threads=2)
    np.testing.assert_allclose(images, reference.of_images(list(map(opened, data))), atol=1e-5)
    texts = vectors_of_texts(folder, TEXTS, threads=2)
    np.testing.assert_allclose(texts.vectors, reference.of_texts(TEXTS), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(texts.vectors, axis=1), 1, atol=1e-6)
    assert texts.truncated.tolist() == [len(text) > 500 for text in TEXTS]
    assert texts.n_tokens.max() == 77


@pytest.mark.data
def test_the_layout_of_sentence_transformers_gives_the_same_vectors(tmp_path, data_folder):
    plain = save_clip(tmp_path / "plain", data_folder)
    saved = str(tmp_path / "saved")
    reference = SentenceTransformer(plain, device="cpu", local_files_only=True)
    reference.save_pretrained(saved)
    old = tmp_path / "old"  # as the clip-ViT repositories have it
    shutil.copytree(plain, old / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel"}
    module["type"] = "sentence_transformers.models.CLIPModel"
    (old / "modules.json").write_text(json.dumps([module]))
    data, texts = noise_photos(12), TEXTS[:3]
    want_texts = reference.encode(texts, normalize_embeddings=True)
    want_images = reference.encode(list(map(opened, data)), normalize_embeddings=True)
    for folder in (plain, saved, old):
        np.testing.assert_allclose(vectors_of_texts(folder, texts).vectors, want_texts, atol=1e-5)
        np.testing.assert_allclose(vectors_of_images(folder, data), want_images, atol=1e-5)


@pytest.mark.data
def test_towers_share_a_space_and_not_a_recipe(tmp_path, data_folder):
    folder = save_clip(tmp_path / "clip", data_folder)
    texts, images = resolve(folder), resolve(folder, modality="image")
    assert texts.space == images.space
    assert texts.recipe != images.recipe
    assert texts.dim == images.dim == 40
    scale = transformers.CLIPModel.from_pretrained(folder).logit_scale.exp().item()
    assert texts.logit_scale == pytest.approx(scale, rel=1e-6)
    path = tmp_path / "clip" / "preprocessor_config.json"
    path.write_text(path.read_text().replace('"resample": 3', '"resample": 2'))
    assert resolve(folder, modality="image").recipe != images.recipe
    assert resolve(folder).recipe == texts.recipe


@pytest.mark.data
def test_other_pixels_make_images_due_and_no_texts(tmp_path, data_folder, monkeypatch):
    folder = save_clip(tmp_path / "clip", data_folder)
    texts, images = resolve(folder), resolve(folder, modality="image")
    monkeypatch.setattr(recipes, "PIXELS_VERSION", recipes.PIXELS_VERSION - 1)
    assert resolve(folder).recipe == texts.recipe
    assert resolve(folder, modality="image").recipe != images.recipe
    assert resolve(folder, modality="image").space == images.space


@pytest.mark.data
def test_what_is_no_image_model_is_refused(tmp_path, data_folder):
    folder = save_clip(tmp_path / "clip", data_folder)
    with pytest.raises(ModelError, match="all-MiniLM-L6-v2 embeds text, and SOURCE holds images"):
        resolve("all-MiniLM-L6-v2", modality="image")
    (tmp_path / "clip" / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="takes no images"):
        resolve(folder, modality="image")
    assert family_of(folder) == "clip"


@pytest.mark.data
def test_missing_weights_are_not_drawn_at_random(tmp_path, data_folder):
    from safetensors.torch import load_file, save_file

    folder = save_clip(tmp_path / "clip", data_folder)
    path = tmp_path / "clip" / "model.safetensors"
    tensors = load_file(path)
    for lost, modality in (
        ("visual_projection.weight", "image"),
        ("text_model.encoder.layers.2.mlp.fc2.bias", "text"),
    ):
        save_file({name: held for name, held in tensors.items() if name != lost}, path)
        with pytest.raises(ModelError, match=lost):
            resolve(folder, modality=modality).load()


@pytest.mark.data
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near(data_folder, precision):
    folder = data_folder / "clip_tiny"
    data = noise_photos(12)
    exact = vectors_of_images(folder, data)
    half = vectors_of_images(folder, data, precision=precision)
    assert (exact * half).sum(axis=1).min() > 0.999


def members(path, n=None):
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        return [archive.read(name) for name in names[:n]]


@pytest.mark.data
def test_a_trained_model_equals_the_reference_on_real_images(data_folder):
    folder = data_folder / "clip_tiny"
    reference = Reference(folder)
    data = members(data_folder / "cifar10_2000" / "images.zip", 100)
    data += members(data_folder / "mnist_2000" / "images.zip", 100)
    want = reference.of_images(list(map(opened, data)))
    np.testing.assert_allclose(vectors_of_images(folder, data), want, atol=1e-5)
    want = reference.of_texts(TEXTS)
    np.testing.assert_allclose(vectors_of_texts(folder, TEXTS).vectors, want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.data
def test_all_photos_and_captions_in_the_shape_of_vit_b_32(tmp_path, data_folder):
    folder = save_clip(tmp_path / "clip", data_folder, full=True)
    reference = Reference(folder)
    photos = members(data_folder / "flickr8k_1000" / "images.zip")
    with (data_folder / "flickr8k_1000" / "captions.csv").open(encoding="utf-8") as file:
        captions = [row["caption"] for row in DictReader(file)]
    assert (len(photos), len(captions)) == (1000, 5000)
    got = vectors_of_images(folder, photos)
    for at in range(0, len(photos), 100):
        want = reference.of_images(list(map(opened, photos[at : at + 100])))
        np.testing.assert_allclose(got[at : at + 100], want, atol=1e-5)
    got = vectors_of_texts(folder, captions).vectors
    for at in range(0, len(captions), 250):
        np.testing.assert_allclose(
            got[at : at + 250], reference.of_texts(captions[at : at + 250]), atol=1e-5
        )
