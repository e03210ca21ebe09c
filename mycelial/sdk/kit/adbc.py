"""One ADBC connection through the driver manager's low level: no dbapi, so no pyarrow.

The dbapi imports pyarrow whenever it is installed (2 s and 140 MB in a crowded environment), and
its `commit` is silently nothing when autocommit was switched behind its back. Here transactions
are plain SQL (`BEGIN`, `COMMIT`) on a connection that stays in autocommit, which both drivers
honour for queries and for ingestion.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from mycelial.sdk.errors import Interrupted, PluginError

if TYPE_CHECKING:
    from arro3.core import RecordBatch, Schema

Translate = Callable[[str, str | None], PluginError]
"""Makes our error of a driver's: (message, SQLSTATE or None)."""


class Session:
    """A connection. Used by one thread; `interrupt` alone may come from another."""

    def __init__(self, options: Mapping[str, str], translate: Translate) -> None:
        import adbc_driver_manager

        self._manager = adbc_driver_manager
        self._translate = translate
        self._interrupted = threading.Event()
        self._running: Any = None
        self._connection: Any = None
        with self._errors():
            self._database = adbc_driver_manager.AdbcDatabase(**options)
        try:
            with self._errors():
                self._connection = adbc_driver_manager.AdbcConnection(self._database)
        except BaseException:
            self._database.close()
            raise

    def execute(self, sql: str) -> int:
        """Run a statement; return the affected rows of INSERT, UPDATE, DELETE, else -1."""
        with self._statement() as statement, self._errors():
            statement.set_sql_query(sql)
            return int(statement.execute_update())

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return a small result as Python values."""
        found: list[tuple[Any, ...]] = []
        for batch in self.stream(sql):
            columns = [batch.column(index).to_pylist() for index in range(batch.num_columns)]
            found.extend(zip(*columns, strict=True))
        return found

    def stream(self, sql: str, options: Mapping[str, str] | None = None) -> Iterator[RecordBatch]:
        """Yield a result batch by batch; the statement ends when the iterator is closed."""
        from mycelial.sdk.kit.cstream import batches

        with self._statement() as statement:
            with self._errors():
                if options:
                    statement.set_options(**options)
                statement.set_sql_query(sql)
                handle, _ = statement.execute_query()
            with closing(batches(handle)) as reader:
                while True:
                    self.check()
                    with self._errors():
                        batch = next(reader, None)
                    if batch is None:
                        return
                    yield batch

    def ingest(
        self,
        table: str,
        schema: Schema,
        batches: Iterable[RecordBatch],
        *,
        db_schema: str = "",
        temporary: bool = False,
    ) -> int:
        """Append batches to an existing table by the driver's bulk path; return the rows."""
        from arro3.core import RecordBatchReader

        options = {
            "adbc.ingest.target_table": table,
            "adbc.ingest.mode": "adbc.ingest.mode.append",
        }
        if db_schema:
            options["adbc.ingest.target_db_schema"] = db_schema
        if temporary:
            options["adbc.ingest.temporary"] = "true"
        with self._statement() as statement, self._errors():
            statement.set_options(**options)
            statement.bind_stream(RecordBatchReader.from_batches(schema, batches))
            return int(statement.execute_update())

    def interrupt(self) -> None:
        """Make the running call and all later ones raise Interrupted."""
        self._interrupted.set()
        running = self._running
        if running is not None:
            try:
                running.cancel()
            except self._manager.Error:
                return  # SQLite cannot cancel: the flag is seen at the next batch

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            self._database.close()

    @contextmanager
    def _statement(self) -> Iterator[Any]:
        self.check()
        statement = self._manager.AdbcStatement(self._connection)
        self._running = statement
        try:
            yield statement
        finally:
            self._running = None
            statement.close()

    def check(self) -> None:
        """Raise Interrupted once `interrupt` was called."""
        if self._interrupted.is_set():
            raise Interrupted

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._manager.Error as error:
            self.check()
            raise self._translate(str(error), error.sqlstate) from error
        except Exception as error:
            # arro3 hands on what an Arrow stream reports as a bare Exception.
            if type(error) is not Exception:
                raise
            self.check()
            raise self._translate(str(error), None) from error
