"""Histories of strong documents, recorded on real processes under faults, and checked: `make jepsen`.

- clients: read, write, compare and set, each at one region, and record what they learn
- faults: what befalls the regions meanwhile, lost disks among it
- recording: one history, from the first operation to its verdict
- report: lines for people, with a count and the time that is left
"""
