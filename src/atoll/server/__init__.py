"""The HTTP interface: a thin layer over a `Region`. The data routes are bare ASGI, for speed."""
