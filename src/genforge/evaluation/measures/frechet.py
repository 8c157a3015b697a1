"""Frechet distance of two Gaussians that are fitted to features (Heusel et al. 2017, equation 6).

|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)), where C = L L^T makes the last trace the sum of the roots of the
eigenvalues of L2^T C1 L2. That matrix is symmetric, so its eigenvalues cost a fraction of those of C1 C2, which
torch-fidelity takes; L2, of the real images, is computed once. The number is torch-fidelity's.
"""

from __future__ import annotations

import numpy as np

from genforge.evaluation.metric import Evidence, Metric

MEAN, ROOT = "frechet.mean", "frechet.root"


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, in the precision of the features as torch-fidelity takes it, and covariance (d, d) in float64."""
    centred = features - features.mean(axis=0, dtype=np.float64)
    # A matrix times its own transpose: half the work of any other product.
    return features.mean(axis=0), centred.T @ centred / (len(features) - 1)


def root_of(covariance: np.ndarray) -> np.ndarray:
    """Lower triangular L (d, d), float64, with L L^T = covariance, which may be singular: features can be dead."""
    values, vectors = np.linalg.eigh(covariance)
    _, upper = np.linalg.qr((vectors * np.sqrt(values.clip(min=0.0))).T)
    return np.ascontiguousarray(upper.T)


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, reference_mean: np.ndarray, reference_root: np.ndarray
) -> float:
    """Squared distance, from the moments (d,) and (d, d) of one side and the mean and root of the other's."""
    from scipy.linalg import eigvalsh, lapack

    # C1 to L^T C1 L, in a quarter of the multiplications of the two products that it stands for. LAPACK wants columns
    # to be contiguous, which they are of transposes: then nothing is copied.
    reduced, _ = lapack.dsygst(covariance.T, reference_root.T, itype=2, lower=0)
    # On several cores LAPACK takes a third less time for a lower triangle than for an upper one.
    eigenvalues = eigvalsh(reduced.T, lower=True, check_finite=False)
    return _distance(mean, float(np.trace(covariance)), reference_mean, reference_root, eigenvalues)


def frechet_distance_of_few(features: np.ndarray, reference_mean: np.ndarray, reference_root: np.ndarray) -> float:
    """The same of n features (n, d) that are no more than their dimensions: by a matrix (n, n)."""
    centred = features - features.mean(axis=0, dtype=np.float64)
    seen = centred @ reference_root
    eigenvalues = np.linalg.eigvalsh(seen @ seen.T / (len(features) - 1))
    trace = float((centred**2).sum() / (len(features) - 1))
    return _distance(features.mean(axis=0), trace, reference_mean, reference_root, eigenvalues)


def _distance(
    mean: np.ndarray, trace: float, reference_mean: np.ndarray, root: np.ndarray, eigenvalues: np.ndarray
) -> float:
    between = mean - reference_mean
    # Rounding leaves eigenvalues of singular matrices a little below 0.
    roots = float(np.sqrt(eigenvalues.clip(min=0.0)).sum())
    return float(between @ between) + trace + float((root**2).sum()) - 2.0 * roots


def prepare(reference: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    mean, covariance = moments(reference)
    return {MEAN: mean, ROOT: root_of(covariance)}


def fid(evidence: Evidence) -> float:
    mean, root = evidence.prepared[MEAN], evidence.prepared[ROOT]
    count, dimensions = evidence.generated.shape
    if count <= dimensions:
        return frechet_distance_of_few(evidence.generated, mean, root)
    return frechet_distance(*moments(evidence.generated), mean, root)


FID = Metric(
    name="fid",
    title="FID",
    better="lower",
    meaning="Frechet distance of two Gaussians fitted to the features of generated and of real images "
    "(Heusel et al. 2017)",
    compute=fid,
    prepare=prepare,
    decimals=2,
    main=True,
)
