"""The HTTP interface: a thin layer over a `Region`. Bare ASGI throughout, for speed."""
