"""The cluster tests run one after the other, on one cluster, which is whole when each begins."""

from collections.abc import Iterator

import pytest

from cluster.nodes import Cluster, three_nodes


@pytest.fixture(scope="session")
def _running() -> Iterator[Cluster]:
    with three_nodes() as cluster:
        yield cluster


@pytest.fixture
def cluster(_running: Cluster) -> Cluster:
    """Give a cluster of a primary and two standbys, one of which has every acknowledged commit."""
    _running.heal()
    return _running
