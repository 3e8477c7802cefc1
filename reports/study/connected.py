"""Which methods are compared with which, directly or through others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def parts(methods: Sequence[str], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The methods in parts that no pair joins, the largest first; strengths compare within a part only."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    place = {method: index for index, method in enumerate(methods)}
    edges = np.array([(place[one], place[other]) for one, other in pairs], dtype=int).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(len(methods), len(methods)))
    count, of_method = connected_components(graph, directed=False)
    found = [
        [method for method, part in zip(methods, of_method, strict=True) if part == number]
        for number in range(count)
    ]
    return sorted(found, key=len, reverse=True)
