"""The audit of conflicts, and how an application resolves one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from atoll.documents.mutation import Write, put_of
from atoll.documents.rules import Rules
from atoll.errors import Conflict, InvalidOperation, NotFound
from atoll.region.gates import Gates
from atoll.replication.messages import WriteReply
from atoll.schema.limits import ANY_KEY, validate_key
from atoll.store.port import AuditFilter, AuditRow, Store

Token = Mapping[str, int] | None


class Conflicts:
    """Of one region."""

    def __init__(
        self,
        rules: Mapping[str, Rules],
        store: Store,
        gates: Gates,
        write: Callable[[Write, Token], Awaitable[WriteReply]],
    ) -> None:
        self._rules = rules
        self._store = store
        self._gates = gates
        self._write = write

    async def page(
        self, wanted: AuditFilter, *, after: tuple[int, str] | None = None, limit: int = 100
    ) -> Sequence[AuditRow]:
        """Records of the audit, newest first. A page may end early: see `store.pages`.

        Raises Unavailable, InvalidKey, and what the store raises.
        """
        if wanted.key is not None:
            validate_key(wanted.key, ANY_KEY)
        entered = self._gates.enter()
        rows = await self._store.conflicts(wanted, after=after, limit=limit)
        self._gates.leave(entered)
        return rows

    async def resolve(
        self, conflict_id: str, value: bytes, *, idempotency_key: str | None = None, token: Token = None
    ) -> WriteReply:
        """Write the value that the application chose. The write has seen all siblings, so it resolves the conflict.

        Raises NotFound, Conflict, InvalidOperation, and what `Writer.write` raises.
        """
        entered = self._gates.enter()
        row = await self._store.conflict(conflict_id)
        repeated = idempotency_key is not None and await self._store.remembered([idempotency_key])
        self._gates.leave(entered)
        if row is None:
            raise NotFound(f"there is no conflict {conflict_id!r}")
        if row.status == "resolved" and not repeated:
            raise Conflict(f"conflict {conflict_id} is resolved already", id=conflict_id)
        if row.field:
            raise InvalidOperation(
                f"conflict {conflict_id} is about {row.collection}.{row.field} alone; PATCH the document instead"
            )
        put = put_of(self._rules[row.collection], row.key, value)
        return await self._write(Write((put,), idempotency_key), token)
