"""Images a second of `embatch embed` and of sentence-transformers' `encode`.

    python -m benchmarks.images
    python -m benchmarks.images --parts speed --images 200 --rounds 1 --json

The model is ViT-B/32 with random weights and CLIP's own preprocessing, the images photos of Flickr8k. Each
engine is a process of its own; they take turns, and a ratio is the median over rounds. The engine
`sentence-transformers` opens the files with Pillow and encodes them. `embatch` embeds a folder into a
table, timed from the moment that its model is loaded until everything is committed; it also embeds a folder
in which one file of fifty is broken. Decoding alone is timed on all cores. The part `memory` compares the
peak memory at four times as many images. About twenty minutes on two cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.corpora import DATA, ROOT, SEED
from benchmarks.record import PeakMemory, append

TIMES = 4
ALLOWED = 1.15
SAMPLE_SECONDS = 5.0
REFERENCE, JOB, BROKEN = "sentence-transformers", "embatch", "embatch, 2% broken"
ENGINES = (REFERENCE, JOB, BROKEN)
ONE_BROKEN_OF = 50
PARTS = ("speed", "memory")


def model_folder(folder: Path) -> str:
    """Write CLIP ViT-B/32 with random weights, and the real tokenizer and preprocessing, to a folder."""
    import torch
    import transformers

    torch.manual_seed(SEED)
    given = DATA / "clip_tokenizer"
    transformers.CLIPModel(transformers.CLIPConfig.from_pretrained(given)).save_pretrained(folder)
    for path in given.glob("*"):
        if not (folder / path.name).exists():
            (folder / path.name).write_bytes(path.read_bytes())
    return str(folder)


def write_photos(folder: Path, n: int) -> None:
    """Write n distinct files; after the first thousand, photos repeat with bytes added behind their end."""
    folder.mkdir()
    with zipfile.ZipFile(DATA / "flickr8k_1000" / "images.zip") as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".jpg")]
        for index in range(n):
            photo = archive.read(names[index % len(names)])
            (folder / f"{index:06}.jpg").write_bytes(photo + bytes(index // len(names)))


def copy_with_broken(folder: Path, photos: Path) -> None:
    """Copy photos to a folder, but replace one of ONE_BROKEN_OF by a file broken in one of ten ways."""
    from tests.support.pictures import write_broken

    folder.mkdir()
    for index, photo in enumerate(sorted(photos.iterdir())):
        if index % ONE_BROKEN_OF:
            (folder / photo.name).hardlink_to(photo)
        else:
            write_broken(folder, index // ONE_BROKEN_OF)  # type: ignore[no-untyped-call]


def run_reference(model: str, photos: str, out: str) -> dict[str, Any]:
    """Time sentence-transformers with its defaults, and write its vectors to the file `out`."""
    from PIL import Image
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, local_files_only=True)
    paths = sorted(Path(photos).iterdir())
    with Image.open(paths[0]) as first:
        encoder.encode([first])
    started = time.perf_counter()
    vectors = []
    for at in range(0, len(paths), 128):
        opened = [Image.open(path).convert("RGB") for path in paths[at : at + 128]]
        vectors.append(encoder.encode(opened, normalize_embeddings=True, show_progress_bar=False))
    seconds = time.perf_counter() - started
    np.save(out, np.concatenate(vectors))
    return {"seconds": seconds}


def run_job(model: str, photos: str, out: str) -> dict[str, Any]:
    """Time a whole run of `embatch embed`, and write its vectors to the file `out`."""
    from jobs.embed import run
    from jobs.runtime.native_stderr import hide_native_noise
    from jobs.sync.config import EmbedConfig
    from jobs.sync.summary import EmbedSummary
    from schemas.delta.store import Table
    from schemas.vectors import vectors_of

    with tempfile.TemporaryDirectory() as folder:
        config = EmbedConfig(photos, f"{folder}/table", model, json=True)
        with hide_native_noise():
            summary = run(config)
        assert isinstance(summary, EmbedSummary)  # no dry run was asked for
        table = Table.open(config.table)
        assert table is not None  # just written
        rows = table.read(["id", "embedding"]).sort_by("id")
    np.save(out, vectors_of(rows["embedding"]))
    return {
        "seconds": summary.embedded / summary.rows_per_second,
        "start_seconds": summary.start_seconds,
        "precision": summary.precision,
        "starved_share": summary.starved_share,
        "failed": summary.failed,
    }


def run_engine(engine: str, model: str, photos: Path, out: Path) -> dict[str, Any]:
    """Run an engine in a process of its own; its figures and its peak memory."""
    asked = json.dumps([engine, model, str(photos), str(out)])
    with (
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.images", "--child", asked],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as child,
        PeakMemory(child.pid, SAMPLE_SECONDS) as memory,
    ):
        output, _ = child.communicate()
    if child.returncode:
        raise RuntimeError(f"{engine} failed with {child.returncode}; see above.")
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer | {"peak_memory_mb": round(memory.peak_mb, 1)}


def decoding_rate(model: str, photos: Path) -> float:
    """Images a second of decoding and preparing alone, on all cores."""
    from actors.engine.hardware import cores
    from actors.images.pixels import decode, read_preprocess

    files = [path.read_bytes() for path in sorted(photos.iterdir())]
    preprocess = read_preprocess(model)
    decode(files[:8], preprocess, threads=cores())
    started = time.perf_counter()
    decode(files, preprocess, threads=cores())
    return len(files) / (time.perf_counter() - started)


def measure_speed(n: int, rounds: int, model: str, folder: Path) -> dict[str, Any]:
    """Measure the engines in turns, and decoding alone."""
    write_photos(folder / "photos", n)
    copy_with_broken(folder / "broken", folder / "photos")
    sets = dict.fromkeys(ENGINES, folder / "photos") | {BROKEN: folder / "broken"}
    answers: dict[str, list[dict[str, Any]]] = {engine: [] for engine in ENGINES}
    for turn in range(rounds):
        for engine in ENGINES if turn % 2 == 0 else ENGINES[::-1]:
            print(f"{turn + 1}/{rounds} {engine}", file=sys.stderr, flush=True)
            out = folder / f"{engine}.npy"
            answers[engine].append(run_engine(engine, model, sets[engine], out))
    base, mine = (np.load(folder / f"{engine}.npy") for engine in (REFERENCE, JOB))
    decoded = decoding_rate(model, folder / "photos")
    seconds = {
        engine: np.array([answer["seconds"] for answer in answers[engine]]) for engine in ENGINES
    }
    rates = {engine: round(n / median(seconds[engine]), 2) for engine in (REFERENCE, JOB)}
    return {
        "images": n,
        "images_per_second": rates,
        "ratio": round(median(seconds[REFERENCE] / seconds[JOB]), 3),
        "min_cosine": round(float((base * mine).sum(axis=1).min()), 7),
        "max_difference": float(f"{np.abs(base - mine).max():.1e}"),
        "broken_over_clean": round(median(seconds[BROKEN] / seconds[JOB]), 3),
        "broken": answers[BROKEN][-1]["failed"],
        "decoded_per_second": round(decoded, 1),
        "decoding_over_job": round(decoded / rates[JOB], 1),
        "job": answers[JOB][-1],
    }


def measure_memory(n: int, model: str, folder: Path) -> dict[str, Any]:
    """Measure the peak memory of a run, workers and Ray included, for n images and for TIMES as many."""
    peaks = {}
    for count in (n, TIMES * n):
        print(f"{JOB}, {count} images", file=sys.stderr, flush=True)
        photos = folder / f"photos-{count}"
        write_photos(photos, count)
        peaks[count] = run_engine(JOB, model, photos, folder / "out.npy")["peak_memory_mb"]
    return {
        "peak_memory_mb": peaks,
        "peak_ratio": round(peaks[TIMES * n] / peaks[n], 3),
        "allowed": ALLOWED,
    }


def main() -> int:
    """Measure, print the result and append it to the results; returns 1 if memory grew by more than ALLOWED."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--images", type=int, default=600, help="photos; twice as many for memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        engine, *rest = arguments.child
        print(json.dumps((run_reference if engine == REFERENCE else run_job)(*rest)))
        return 0
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}, known: {', '.join(PARTS)}")
    if not (DATA / "flickr8k_1000").is_dir():
        print(f"The photos are missing: expected them in {DATA}/flickr8k_1000.", file=sys.stderr)
        return 1
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        model = model_folder(folder / "model")
        if "speed" in parts:
            result |= measure_speed(arguments.images, arguments.rounds, model, folder)
        if "memory" in parts:
            result |= measure_memory(2 * arguments.images, model, folder)
    append("images", {"options": vars(arguments), **result})
    print(json.dumps(result, indent=None if arguments.json else 1))
    return int(result.get("peak_ratio", 0) > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
