import json
import os
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["PYTHONPATH"] = str(ROOT)  # for Ray's workers and child processes


@pytest.fixture(scope="session")
def data_folder():
    """The folder of real corpora, which is not a part of the project."""
    folder = Path(os.environ.get("EMBATCH_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is missing: set EMBATCH_TEST_DATA (looked at {folder})")
    return folder


@pytest.fixture(scope="session")
def local_ray():
    """One Ray for all tests of a session."""
    from jobs.runtime.ray_cluster import Cluster

    cluster = Cluster(None, verbose=False)
    cluster.nodes()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def digits_clip(request):
    """A small CLIP that knows digits, trained once and kept; see `digits_clip.train`."""
    import hashlib

    from jobs.training import digits_clip

    source = Path(digits_clip.__file__).read_bytes()
    folder = request.config.cache.mkdir(f"digits-{hashlib.sha256(source).hexdigest()[:12]}")
    if not (folder / "done.json").exists():
        digits_clip.train(folder)
    return folder


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory):
    """The same, hardly trained: for tests in which a model of images is only a means."""
    from jobs.training import digits_clip

    folder = tmp_path_factory.mktemp("clip")
    digits_clip.train(folder, epochs=1)
    return folder


@pytest.fixture(scope="module")
def few_rows_here():
    """A module's runs of few rows keep to this process, also where an earlier test's Ray is up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.runtime.ray_cluster.Cluster.is_up", lambda _: False)
        yield


@pytest.fixture
def through_ray(local_ray, monkeypatch):
    """Where `few_rows_here` holds, a test that goes through Ray's workers all the same."""
    monkeypatch.setattr("jobs.runtime.ray_cluster.Cluster.is_up", lambda _: True)


@pytest.fixture
def photos(tmp_path):
    """A folder of small images in folders that may be their labels."""
    from PIL import Image

    from tests.support.pictures import file_of, noise

    folder = tmp_path / "photos"
    for index in range(12):
        path = folder / ("cat" if index % 2 else "dog") / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_of(Image.fromarray(noise(20 + index, 30))))
    return folder


@pytest.fixture
def embatch(capfd):
    """A command and its JSON; of a command that fails, the code and the message."""
    from jobs.cli import main

    def call(*arguments):
        capfd.readouterr()
        try:
            code = main([*map(str, arguments), "--json"])
        except SystemExit as end:
            code = end.code
        told = capfd.readouterr()
        if code == 0:
            return json.loads(told.out.splitlines()[-1])
        return code, " ".join(told.err.replace("│", " ").split())

    return call


@pytest.fixture(scope="session")
def lee(tmp_path_factory):
    """A table of word2vec's words, `lee.txt` beside it."""
    from tests.support.word_files import copied, table_at

    folder = tmp_path_factory.mktemp("lee")
    return table_at(folder / "table", copied("word2vec_pre_kv_c", folder / "lee.txt"))


@pytest.fixture(scope="session")
def lee_kv():
    """The same words, as gensim has them."""
    from gensim.models import KeyedVectors

    from tests.support.word_files import GENSIM

    return KeyedVectors.load_word2vec_format(str(GENSIM / "word2vec_pre_kv_c"))


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """A table of fastText's words, `lee.bin` beside it."""
    from tests.support.word_files import copied, table_at

    folder = tmp_path_factory.mktemp("parts")
    return table_at(folder / "table", copied("lee_fasttext_new.bin", folder / "lee.bin"))


@pytest.fixture(scope="session")
def parts_kv():
    """The same words, as gensim has them."""
    from gensim.models.fasttext import load_facebook_vectors

    from tests.support.word_files import GENSIM

    return load_facebook_vectors(str(GENSIM / "lee_fasttext_new.bin"))


@pytest.fixture
def royal(tmp_path):
    """A table of six words, `royal.txt` beside it."""
    from tests.support.word_files import ROYAL, table_at, written

    return table_at(tmp_path / "royal", written(tmp_path / "royal.txt", ROYAL))


@pytest.fixture(scope="session")
def news(data_folder, tmp_path_factory):
    """A table of the words of a large real model."""
    from tests.support.word_files import table_at

    model = data_folder / "word2vec_news" / "vectors.bin"
    return table_at(tmp_path_factory.mktemp("news") / "table", model)


@pytest.fixture(scope="session")
def news_kv(data_folder):
    """The same words, as gensim has them."""
    from gensim.models import KeyedVectors

    path = str(data_folder / "word2vec_news" / "vectors.bin")
    return KeyedVectors.load_word2vec_format(path, binary=True)
