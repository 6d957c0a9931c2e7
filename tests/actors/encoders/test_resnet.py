import io
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from actors.checkpoints import resolve
from actors.engine.engine import Engine
from actors.models import ModelError
from tests.support.pictures import noise_photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small ResNet with random weights, as a classifier is saved."""
    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(1)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 32, 48, 64], depths=[1, 2, 1, 1], num_labels=5
    )
    model = transformers.ResNetForImageClassification(config).eval()
    for name, weight in model.named_buffers():
        if "running" in name:  # what training would have left there
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    model.save_pretrained(folder)
    settings = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 64}}
    settings |= {"crop_pct": 0.875, "image_mean": [0.5] * 3, "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"resample": 3}))
    return folder


def test_vectors_equal_the_reference(folder):
    model, data = resolve(str(folder), modality="image"), noise_photos(5, 60, 100)
    encoder = model.load(threads=2)
    got = Engine(encoder).encode(np.stack([model.preprocess(file) for file in data])).vectors
    reference = transformers.ResNetModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    images = [Image.open(io.BytesIO(file)) for file in data]
    with torch.inference_mode():
        want = reference(**processor(images, return_tensors="pt")).pooler_output.flatten(1)
    want = torch.nn.functional.normalize(want, dim=1).numpy()
    assert got.shape == (5, 64) == (5, model.dim)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_setting_that_moves_a_stride_is_another_space(folder, tmp_path):
    before = resolve(str(folder), modality="image")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"downsample_in_bottleneck": True}))
    after = resolve(str(tmp_path), modality="image")
    assert after.space != before.space
    assert after.recipe != before.recipe


def test_it_takes_no_texts(folder):
    with pytest.raises(ModelError, match="embeds image, and SOURCE holds texts"):
        resolve(str(folder))
    assert resolve(str(folder), modality="image").logit_scale is None
