"""The arguments that every peer is started with: see README.md."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


def parse_arguments(description: str) -> Namespace:
    """What the harness has said; `aligned` is for the hand-written loops only."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--inputs-prefix", required=True)
    parser.add_argument("--output-prefix", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--partitions", required=True, type=int)
    parser.add_argument("--aligned", action="store_true", help="process the topics in the order of their timestamps")
    parser.add_argument("--wait-ms", type=int, default=100, help="the longest that a fetch waits for a full batch")
    parser.add_argument("--batch-records", type=int, default=50_000, help="records of a full batch")
    return parser.parse_args()
