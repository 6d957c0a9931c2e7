"""Figures that `benchmarks.simulate` calculates with: measured rates, and data sheets of GPUs and models.

    python -m benchmarks.rates    # prints all of them as JSON

RECORDS names the measurements that count, so that a new one changes no table until it is named here.
No GPU was measured: GPUS and ENCODERS hold figures of vendors and papers, ASSUMED our guesses.
"""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.ceiling import Sizes
from benchmarks.record import RESULTS

RECORDS = {  # by file of results, the time of the record that counts
    "costs": "2026-11-22T12:10:33+00:00",
    "driver": "2026-11-22T12:08:30+00:00",
    "encode": "2026-11-22T02:11:15+00:00",
    "images": "2026-11-22T04:37:25+00:00",
    "memory": "2026-11-21T20:19:20+00:00",
    "neighbours": "2026-11-22T06:06:27+00:00",
    "scale": "2026-11-22T00:08:06+00:00",
}
ASSUMED = {
    "request_ms": 30.0,  # one answer of an object store
    "network_bytes_a_second": 1.25e9,  # of each machine
    "images_a_tar": 10_000.0,
    "spot_share": 0.4,  # of the price on demand
    "interruptions_a_gpu_hour": 0.01,
    "keys_a_list": 1000.0,  # that one LIST of S3 answers
    "dollars_a_thousand_gets": 0.0004,  # S3 Standard, us-east-1, 2025
    "driver_gb": 128.0,
}
REQUESTS = {"check": 4, "schema": 2, "read": 3, "write": 5, "delete": 3}
"""Number of requests to an object store for one file, one after the other, counted with an S3 server."""


@dataclass(frozen=True)
class Gpu:
    """A GPU and its share of a machine.

    Attributes:
        tflops: Peak of dense bf16 products, by NVIDIA's data sheets; for the A10G, which is made for AWS,
            by public lists.
        cores: Number of the machine's virtual cores for each GPU.
        dollars: Price of an hour on demand: AWS list prices of 2025, us-east-1, Linux (g6.xlarge,
            g5.xlarge, p4d.24xlarge and p5.48xlarge after June), divided by the number of GPUs.
    """

    tflops: float
    cores: int
    dollars: float


@dataclass(frozen=True)
class Encoder:
    """Sizes of a transformer, and its assumed efficiency on a GPU.

    Attributes:
        layers: Number of layers.
        hidden: Number of features of a token.
        up: Number of features inside the feed-forward network.
        dim: Length of a vector.
        low: Share of a GPU's peak that it is assumed to reach at least, in [0, 1].
        high: Share that it is assumed to reach at most.
        first_flops: Floating point operations for a row before the layers.
    """

    layers: int
    hidden: int
    up: int
    dim: int
    low: float
    high: float
    first_flops: float = 0.0

    def flops(self, n_tokens: float) -> float:
        """Floating point operations of the matrix products for a row; a multiplication and addition are 2."""
        return Sizes(self.layers, self.hidden, self.up).flops(n_tokens) + self.first_flops


GPUS = {
    "L4": Gpu(121, 4, 0.805),
    "A10G": Gpu(70, 4, 1.006),
    "A100": Gpu(312, 12, 2.745),
    "H100": Gpu(989, 24, 6.88),
}
Rates = dict[str, float]
IMAGE_TOKENS = 50  # 7 x 7 patches and the class
ENCODERS = {
    "MiniLM-L6": Encoder(6, 384, 1536, 384, 0.05, 0.2),
    "BERT-base": Encoder(12, 768, 3072, 768, 0.15, 0.4),
    "CLIP ViT-B/32": Encoder(12, 768, 3072, 512, 0.1, 0.4, 49 * 2 * 3 * 32**2 * 768),
}


def record_of(name: str) -> dict[str, Any]:
    """Record of a benchmark's results that RECORDS names.

    Raises:
        KeyError: There is no such record.
    """
    lines = (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    records: dict[str, dict[str, Any]] = {}
    for record in map(json.loads, lines):
        records[record["time"]] = record
    return records[RECORDS[name]]


def measured_rates() -> Rates:
    """Measured rates by name, from the records in RECORDS; names have units."""
    values: Rates = record_of("driver")["measured"] | record_of("costs")["measured"]
    results = record_of("encode")["results"]
    mixed = {result["engine"]: result for result in results if result["corpus"] == "mixed"}
    engine, images, scale = mixed["embatch-fp32"], record_of("images"), record_of("scale")
    refresh = scale["runs"][1]
    stored = values["key_bytes_a_row"] + values["other_bytes_a_row"] + values["text_bytes_a_row"]
    stored += ENCODERS["MiniLM-L6"].dim * values["vector_bytes_a_value"]
    return values | {
        "rewrite_us_a_byte": values["rewrite_us"] / stored,
        "tokens": engine["tokens_per_second"] / engine["rows_per_second"],
        "documents_a_second": mixed["embatch-job"]["rows_per_second"],
        "images_a_second": images["images_per_second"]["embatch"],
        "decode_us": 1e6 * images["machine"]["cores"] / images["decoded_per_second"],
        "whole_driver_mb": record_of("memory")["runs"][1]["peak_driver_mb"],
        "exact_seconds": record_of("neighbours")["seconds"]["embatch"],
        "exact_rows": record_of("neighbours")["rows"],
        "start_seconds": refresh["start_seconds"],
        "refresh_rows": scale["full"]["rows"],
        "refresh_changed_share": refresh["changed_share"],
        "refresh_rate": 1 / scale["seconds_a_row"],
        "refresh_seconds": refresh["seconds"] - refresh["start_seconds"],
    }


def main() -> int:
    """Print all figures as JSON."""
    print(
        json.dumps(
            {
                "gpus": {name: asdict(gpu) for name, gpu in GPUS.items()},
                "encoders": {name: asdict(encoder) for name, encoder in ENCODERS.items()},
                "assumed": ASSUMED,
                "requests": REQUESTS,
                "measured": measured_rates(),
            },
            indent=1,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
