"""Measurements: the raw engines first, Atoll against them, in one run on one machine.

    documents   the keys and bodies that every measurement writes and reads
    raw         SQLite without Atoll: commit, apply, read
    bare_asgi   uvicorn without Atoll: GET and PUT
    load        the HTTP load generator, for any of these servers
    callers     Python clients in a process of their own
    regions     Atoll's regions in this process; `served`, as processes
    peers       other systems, started by the bench
    soak        three regions under load for half an hour
    page        docs/performance.md, from the results

Absolute rates move by 15–40% between runs on a shared machine; report ratios of figures from one run.
"""
