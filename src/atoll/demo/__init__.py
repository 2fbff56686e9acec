"""The demo: a shop on three regions of this machine, what befalls them, and the proof that nothing was lost.

`main` runs it. `topology` holds the processes, `shoppers` and `collisions` the workload, `nemesis` the faults.
`ledger` records what was acknowledged, `findings` what the regions hold afterwards. `proof` compares the two.
"""
