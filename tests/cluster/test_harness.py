"""The cluster itself: that it is what the other tests take it for."""

import pytest

from cluster.nodes import Cluster, PgBouncer, psql

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_commits_wait_for_a_standby(cluster: Cluster) -> None:
    """A commit is acknowledged when a standby has it, and the primary knows which may."""
    port = cluster.primary().port
    assert psql(port, "postgres", "SHOW synchronous_commit") == "on"
    assert psql(port, "postgres", "SHOW synchronous_standby_names") != ""
    states = psql(port, "postgres", "SELECT sync_state FROM pg_stat_replication").split()
    assert set(states) <= {"sync", "quorum", "potential", "async"}
    assert len(cluster.standbys()) == 2


def test_pgbouncer_passes_on(cluster: Cluster) -> None:
    """A statement through PgBouncer is answered by the primary behind it."""
    bouncer = PgBouncer(cluster.folder / "pgbouncer-harness", cluster.primary(), "postgres")
    bouncer.start()
    try:
        assert psql(bouncer.port, "postgres", "SELECT pg_is_in_recovery()") == "f"
        bouncer.pause()
        bouncer.resume()
        assert psql(bouncer.port, "postgres", "SELECT 1") == "1"
    finally:
        bouncer.kill()
