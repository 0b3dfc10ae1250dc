"""Make Prefect's server write to its SQLite database one transaction after the other.

Prefect 3.8 begins most transactions as readers. When one of them comes to write and another wrote meanwhile, SQLite
refuses it at once, and the request is answered with 503: Prefect's own client asks again, its UI does not, so a person's
"Submit" is lost. And a writer that waits inside SQLite, up to 60 seconds, holds its connection's mutex: if Python's
garbage collector drops an old cursor of that connection in the event loop's thread, the whole server stands still until
that wait is over, for whoever holds the lock needs the same loop to let go of it.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

_BUSY_MILLISECONDS = 5_000
"""Another process may write to the same database, as an older server that ends: so long is waited for it, instead of 60 s."""

_PATIENCE_SECONDS = 20.0


@dataclasses.dataclass
class _Turn:
    """Whether the transaction that a request or its helpers are in is still open."""

    open: bool = True


_turn: ContextVar[_Turn | None] = ContextVar("turn", default=None)
_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def one_writer_at_a_time() -> None:
    """Have each transaction of this process's Prefect server wait for its turn in the event loop, and then begin as a writer.

    Call it once, before the server starts. PostgreSQL is left as it is.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin, set_up = AioSqliteConfiguration.begin_transaction, AioSqliteConfiguration.setup_sqlite

    @contextlib.asynccontextmanager
    async def begin_transaction(self: Any, session: Any, with_for_update: bool = False) -> AsyncIterator[Any]:
        outer = _turn.get()
        if outer and outer.open:
            # Within a transaction: its turn is ours, and to wait for another would be for ever.
            async with begin(self, session, with_for_update) as transaction:
                yield transaction
            return
        async with _turn_to_write(), begin(self, session, True) as transaction:
            yield transaction

    def setup_sqlite(self: Any, connection: Any, record: Any) -> None:
        set_up(self, connection, record)
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        cursor.close()

    AioSqliteConfiguration.begin_transaction = begin_transaction
    AioSqliteConfiguration.setup_sqlite = setup_sqlite


@contextlib.asynccontextmanager
async def _turn_to_write() -> AsyncIterator[None]:
    """Hold the event loop's lock. Who has waited long goes on without: if the holder waits for us, SQLite shall refuse one of both."""
    lock = _locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await lock.acquire()
    except TimeoutError:
        yield
        return
    turn = _Turn()
    token = _turn.set(turn)
    try:
        yield
    finally:
        turn.open = False
        _turn.reset(token)
        lock.release()
