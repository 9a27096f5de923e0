"""The outbox: messages that are sent if, and only if, a transaction of SQLAlchemy's is committed.

They are rows of a table in the database of the transaction (`table`), written in the place of publishing (`capture`,
`session`). Once it is committed they are published and deleted: at once by a thread of the process (`direct`), and by
whoever runs a relay (`relay`), which also finds what a process that died has left behind.

What a crash does:

- before the commit: nothing is sent, as nothing else of the transaction is there;
- between commit and publishing: the rows are there, and a relay sends them;
- between publishing and deleting: they are sent again, with the same task ids. Under PostgreSQL and MySQL the rows are
  locked until then, and free as soon as the server sees the connection end; under SQLite they are held for a while.
"""

from __future__ import annotations

from celeriac.app.outbox.session import outbox

__all__ = ["outbox"]
