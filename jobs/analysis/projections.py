"""Fit maps of vectors in two or three dimensions, place new rows on them, and measure their quality.

A new row is placed on a map where most of its nearest neighbours lie. No fitted object is stored, and no
point of the map moves.
"""

import warnings
from typing import NamedTuple

import numpy as np

from actors.engine.hardware import cores
from jobs.analysis.nearest import nearest

NEIGHBOURS = 15  # umap-learn's default
PERPLEXITY = 30.0  # scikit-learn's default
POINTS_A_THREAD = 5000  # threads wait for each other in loops, which takes long on a busy machine
BANDWIDTH = 0.1  # of the map's spread: how near points of one group lie
JUDGED_ROWS = 3000  # of a sample, in which all pairs are compared


class Axes(NamedTuple):
    """Principal components: a row minus `mean`, times `components`, gives its point.

    Attributes:
        mean: (d,) float32.
        components: (dim, d) float32.
    """

    mean: np.ndarray
    components: np.ndarray


def fit_axes(vectors: np.ndarray, dim: int) -> Axes:
    """Fit `dim` principal components to (n, d) float32 rows, with scikit-learn's signs: no map is mirrored."""
    from sklearn.decomposition import PCA

    fitted = PCA(dim, svd_solver="full").fit(vectors)
    return Axes(fitted.mean_.astype(np.float32), fitted.components_.astype(np.float32))


def points_on_axes(axes: Axes, vectors: np.ndarray) -> np.ndarray:
    """Points, (n, dim) float32, of (n, d) float32 rows on principal components."""
    points: np.ndarray = (vectors - axes.mean) @ axes.components.T
    return points


def fit_umap(vectors: np.ndarray, dim: int, seed: int, *, show: bool = False) -> np.ndarray:
    """Fit a UMAP (McInnes et al. 2018) to (n, d) float32 rows, over exact neighbours by cosine.

    With `show` a bar on stderr shows the progress.

    Returns:
        Points, (n, dim) float32.
    """
    import umap

    k = min(NEIGHBOURS, len(vectors)) - 1
    found = nearest(vectors, k)
    own = np.arange(len(vectors))[:, None]
    indices = np.concatenate([own, found.indices], axis=1)
    distances = np.concatenate([np.zeros_like(own), 1 - found.similarities], axis=1)
    reducer = umap.UMAP(
        n_neighbors=k + 1,
        n_components=dim,
        metric="cosine",
        precomputed_knn=(indices, np.maximum(distances, 0).astype(np.float32), None),
        force_approximation_algorithm=True,  # else few rows are searched once more
        random_state=seed,
        n_jobs=1,  # what a seed makes of it anyway
        init="spectral" if len(vectors) > dim + 2 else "random",
        tqdm_kwds={"desc": "fit", "unit": "epochs", "disable": not show},
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "precomputed_knn")  # its own transform is not wanted
        points: np.ndarray = reducer.fit_transform(vectors).astype(np.float32)
    return points


def fit_tsne(vectors: np.ndarray, dim: int, seed: int) -> np.ndarray:
    """Fit a t-SNE (van der Maaten and Hinton 2008, by scikit-learn) to (n, d) float32 rows.

    Returns:
        Points, (n, dim) float32.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    fitted = TSNE(dim, perplexity=perplexity, metric="cosine", init="pca", random_state=seed)
    with threadpool_limits(min(cores(), 1 + len(vectors) // POINTS_A_THREAD)):
        points: np.ndarray = fitted.fit_transform(vectors).astype(np.float32)
    return points


def place(vectors: np.ndarray, on_map: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Place new rows on a map, each where most of its nearest neighbours lie.

    The mean of the neighbours' points would often lie between groups, where no row is. So each neighbour
    gets a weight, which falls with its distance beyond the nearest neighbour's, as in UMAP's graph. The new
    row goes to the neighbour with the largest weighted kernel density (Parzen 1962), and from there one step
    of mean shift (Fukunaga and Hostetler 1975).

    Args:
        vectors: (m, d) float32, rows to place.
        on_map: (n, d) float32, vectors of the rows on the map.
        points: (n, dim) float32, points of the rows on the map.

    Returns:
        Points of the new rows, (m, dim) float32.
    """
    found = nearest(on_map, min(NEIGHBOURS, len(on_map)), vectors)
    distances = 1 - found.similarities.astype(np.float64)
    beyond = distances - distances[:, :1]
    weights = np.exp(-beyond / np.maximum(beyond.mean(axis=1, keepdims=True), 1e-9))
    spread = np.median(np.linalg.norm(points - points.mean(axis=0), axis=1))
    width = max(BANDWIDTH * float(spread), 1e-9)
    theirs = points[found.indices].astype(np.float64)
    apart = np.linalg.norm(theirs[:, :, None] - theirs[:, None], axis=-1) / width
    shares = np.exp(-(apart**2) / 2) * weights[:, None, :]
    densest = shares.sum(axis=2).argmax(axis=1)
    pull = shares[np.arange(len(shares)), densest]
    placed: np.ndarray = np.einsum("mk,mkd->md", pull, theirs) / pull.sum(axis=1, keepdims=True)
    return placed.astype(np.float32)


class Quality(NamedTuple):
    """Quality of a map: how far neighbours by vectors are also neighbours on the map.

    Attributes:
        trustworthiness: 1 if all neighbours on the map are also neighbours by vectors
            (Venna and Kaski 2001).
        kept: share of a row's nearest neighbours that are among its nearest on the map.
        n: number of rows in the sample.
    """

    trustworthiness: float
    kept: float
    n: int


def judge(vectors: np.ndarray, points: np.ndarray, seed: int) -> Quality | None:
    """Measure the quality of a map on a sample of its rows; None if there are fewer than four rows.

    Args:
        vectors: (n, d) float32.
        points: (n, dim) float32.
        seed: of the sample.
    """
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import NearestNeighbors

    if len(points) < 4:
        return None
    rows = np.arange(len(points))
    if len(rows) > JUDGED_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, JUDGED_ROWS, replace=False))
    vectors, points = vectors[rows], points[rows]
    k = min(NEIGHBOURS, (len(rows) - 1) // 2)
    near = nearest(vectors, k).indices
    on_map = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
    kept = (near[:, :, None] == on_map[:, None, :]).any(axis=2).mean()
    trusted = trustworthiness(vectors, points, n_neighbors=k, metric="cosine")
    return Quality(round(float(trusted), 4), round(float(kept), 4), len(rows))
