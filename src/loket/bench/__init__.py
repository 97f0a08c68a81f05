"""`loket bench`: speed, memory and security, measured on this machine; times beside a peer of the same run.

Everything happens on temporary homes and on loopback. The rows are in `loket.bench.suite`, one file a group of them.
"""

from loket.bench.machine import machine
from loket.bench.place import Place, working_place
from loket.bench.rows import Peer, Row, Taken
from loket.bench.suite import BENCHMARKS, CAMPAIGN, PLANS_KILLED, SECURITY, Benchmark, chosen, measure

__all__ = [
    "BENCHMARKS",
    "CAMPAIGN",
    "PLANS_KILLED",
    "SECURITY",
    "Benchmark",
    "Peer",
    "Place",
    "Row",
    "Taken",
    "chosen",
    "machine",
    "measure",
    "working_place",
]
