"""Feeds batches to arro3's Parquet writer, which wants to pull, through a bounded queue."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from arro3.core import RecordBatch, RecordBatchReader, Schema
from arro3.io import write_parquet

from mycelial.sdk.errors import Permanent

_PENDING_BATCHES = 4


class _Aborted(Exception):
    """Ends the writer's pull when its unit is dropped."""


class _Hashing:
    """A file that hashes what passes through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Asked for by arro3, never called: Parquet is written from front to back."""
        raise OSError("this file is only written forward")

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


class UnitWriter:
    """One temporary file. Its thread lives from the first batch to `finish` or `abort`."""

    def __init__(self, path: Path, schema: Schema, *, scope: str, **options: Any) -> None:
        self._path = path
        self._schema = schema
        self._options = {**options, "key_value_metadata": {"mycelial.scope": scope}}
        self._queue: queue.Queue[RecordBatch | BaseException | None] = queue.Queue(_PENDING_BATCHES)
        self._failure: BaseException | None = None
        self._summary = (0, "")
        self._thread = threading.Thread(target=self._run, name=f"parquet/{path.name}", daemon=True)
        self._thread.start()

    def write(self, batch: RecordBatch) -> None:
        """Queue a batch; blocks while the writer is behind. Raises: what the writer died of."""
        self._put(batch)

    def finish(self) -> tuple[int, str]:
        """Complete and fsync the file; return its size and digest."""
        self._put(None)
        self._thread.join()
        self._check()
        return self._summary

    def abort(self) -> None:
        """End the thread and remove the file."""
        while self._thread.is_alive():
            try:
                self._queue.put(_Aborted(), timeout=0.05)
            except queue.Full:
                continue
            self._thread.join()
        self._path.unlink(missing_ok=True)

    def _put(self, item: RecordBatch | None) -> None:
        while True:
            self._check()
            try:
                self._queue.put(item, timeout=0.5)
            except queue.Full:
                if not self._thread.is_alive():
                    self._check()
                    raise
                continue
            return

    def _check(self) -> None:
        failure = self._failure
        if isinstance(failure, OSError):
            raise failure
        if failure is not None:
            raise Permanent(
                "MYC-PARQUET-010",
                f"the Parquet writer refused the rows: {failure}",
                fix="check that every column's type can be held by Parquet",
            ) from failure

    def _pull(self) -> Iterator[RecordBatch]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _run(self) -> None:
        try:
            with self._path.open("wb") as file:
                target = _Hashing(file)
                reader = RecordBatchReader.from_batches(self._schema, self._pull())
                write_parquet(reader, target, **self._options)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            self._summary = (target.size, f"sha256:{target.digest.hexdigest()}")
        except BaseException as error:  # carried to the thread that writes
            self._failure = error
