"""A Ray cluster, all on this machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_health_check_period_ms": "1000"}


@contextmanager
def start_cluster(nodes: int = 2, head: int = 0) -> Iterator:
    """Starts a cluster whose head has some CPUs, and each other node one, and yields it.

    Skips the test where Ray is not installed.
    """
    pytest.importorskip("ray", reason="needs Ray: pip install 'densenet-ablations[ray]'")
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # where Ray notes the address of the cluster
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # sockets need a short path
        first = {"num_cpus": head, "temp_dir": folder, **small}
        cluster = Cluster(initialize_head=False)
        try:
            cluster.add_node(**first)
            cluster.workers = [cluster.add_node(num_cpus=1, **small) for _ in range(nodes)]
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()
