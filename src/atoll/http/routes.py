"""The table of all routes: dispatch, `/openapi.json`, the multiplexed call and the reference are derived from it."""

from __future__ import annotations

from atoll.http import (
    admin,
    audit,
    documents,
    events,
    feed,
    metrics,
    multiplexing,
    openapi,
    peering,
    sagas,
    transactions,
)
from atoll.http.route import Table

TABLE = Table(
    route
    for resource in (
        documents,
        transactions,
        multiplexing,
        feed,
        audit,
        events,
        sagas,
        admin,
        metrics,
        openapi,
        peering,
    )
    for route in resource.ROUTES
)
