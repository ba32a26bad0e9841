"""Exact optimal transport by SciPy, for tests/toy.rs.

Points have coordinates that any program can make: whole numbers over a hundred.

    python tools/golden/transport.py
"""

import json
from pathlib import Path

import numpy as np
import scipy
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist


def points(n: int, dimensions: int, step: int, modulus: int) -> np.ndarray:
    """Point i has the coordinates ((i d + k) step) mod modulus / 100, k = 0 .. d - 1."""
    flat = np.arange(n * dimensions, dtype=np.int64) * step % modulus
    return flat.reshape(n, dimensions) / 100.0


def main() -> None:
    """Writes the file."""
    cases = []
    for n, dimensions in [(1, 2), (2, 3), (17, 2), (60, 3), (200, 2), (500, 2), (500, 3)]:
        a, b = (n, dimensions, 7919, 997), (n, dimensions, 104729, 1201)
        cost = cdist(points(*a), points(*b))
        rows, columns = linear_sum_assignment(cost)
        cases.append({"n": n, "dimensions": dimensions, "distance": float(cost[rows, columns].mean())})
    out = {"scipy": scipy.__version__, "a": [7919, 997], "b": [104729, 1201], "cases": cases}
    path = Path(__file__).resolve().parents[2] / "tests" / "golden" / "transport.json"
    path.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
