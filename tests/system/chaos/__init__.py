"""Chaos on real processes, sockets and disks: `python -m tests.system.chaos --minutes 30 --seed 1`.

- shop: the collections that the regions serve
- proxy, disk, deployment: regions as processes, with sockets and disks that can be made to fail
- nemesis: draws faults from a seed, and mends them
- caller, history: clients that repeat a write until it is answered, and what came of it
- workload, stock, documents, sessions: workloads, each with what it claims while it runs and at the end
- feed, probe: change feed consumers, and how long each region was not available
- checks, run, report: heal, compare everything, tell
"""
