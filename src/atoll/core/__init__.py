"""The synchronous heart: documents, journal entries, and the batch that turns requests into effects.

Nothing here does I/O, reads a clock or draws a random number; `tests/unit/test_purity.py` keeps it so.
"""
