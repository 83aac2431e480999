"""A Ray cluster on this machine for a test: prints its address, and ends with its standard input.

``python tests/oracles/ray_cluster.py FOLDER``; the token that clients must show is taken from RAY_AUTH_TOKEN.
"""

from __future__ import annotations

import sys

import ray


def main() -> None:
    """Start it and wait."""
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False,
        object_store_memory=80 << 20, _temp_dir=sys.argv[1],
    )  # fmt: skip
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
