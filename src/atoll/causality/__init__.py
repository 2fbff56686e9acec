"""Who has seen what, and when: stamps, version vectors, session tokens and the clock's uncertainty.

`clock`, `vector` and `token` are pure; `uncertainty.kernel_uncertainty_ms` alone asks the operating system.
"""
