"""The file of finished runs: SQLite, one transaction for each run."""

import contextlib
import datetime
import itertools
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable
from typing import Any

from keras_e2e.experiments.command import CommandError
from keras_e2e.experiments.limits.setting import Setting

# Goes up when the table or the fields of a Setting change.
VERSION = 1

TABLE = """CREATE TABLE runs (
    key TEXT PRIMARY KEY,
    setting TEXT NOT NULL,
    result TEXT NOT NULL,
    finished_at TEXT NOT NULL
)"""
INSERT = "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?)"

# Seconds to wait for a runner that is just ending.
PATIENCE = 2.0

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

Row = tuple[str, str, str, str]


class Store:
    """The results of runs by their setting, in a file.

    A run is there whole or not at all, whenever the process is killed. While it is open
    the file belongs to this process alone, so that no two runners do the same work.

    A damaged file is copied to `NAME.damaged-1` (or the next free number) and replaced by
    one with the runs that can still be read. Nothing is ever deleted.

    Args:
        path: Path of the file; made if it is not there.

    Attributes:
        notices: List of sentences on what was repaired.

    Raises:
        CommandError: If the file is of another version or another program, if another
            process has it open, or if it cannot be read or written.

    Example:

    >>> import os, tempfile
    >>> from keras_e2e.experiments.limits.setting import Setting
    >>> from keras_e2e.experiments.limits.store import Store
    >>> setting = Setting("parity", 4, "end_to_end")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Store(os.path.join(folder, "results.sqlite")) as store:
    ...         store.add(setting, {"accuracy": 0.5}), store.get(setting), len(store)
    (True, {'accuracy': 0.5}, 1)
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self.notices: list[str] = []
        try:
            self._connection = self._checked()
        except sqlite3.DatabaseError as error:
            if _code(error) not in DAMAGED:
                raise _refused(self.path, error) from error
            self._repair()
            self._connection = self._checked()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._connection.execute("SELECT count(*) FROM runs").fetchone()[0]

    def __contains__(self, setting: Setting) -> bool:
        return self.get(setting) is not None

    def get(self, setting: Setting) -> dict[str, Any] | None:
        """The result of a run, or None if it is not there."""
        found = self._connection.execute(
            "SELECT result FROM runs WHERE key = ?", (setting.key(),)
        ).fetchone()
        return None if found is None else json.loads(found[0])

    def rows(self, settings: Iterable[Setting]) -> list[tuple[Setting, dict[str, Any]]]:
        """Those of the settings that have a result, in their order, with it."""
        found = ((setting, self.get(setting)) for setting in settings)
        return [(setting, result) for setting, result in found if result is not None]

    def add(self, setting: Setting, result: dict[str, Any]) -> bool:
        """Keeps a result, for good once this returns.

        Returns:
            False where the setting had a result already, which stays.

        Raises:
            ValueError, TypeError: If the result cannot be written as JSON.
            CommandError: If the file cannot be written, as where the disk is full.
        """
        text = json.dumps(result, allow_nan=False)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        try:
            # In autocommit mode a statement is a transaction.
            done = self._connection.execute(
                INSERT, (setting.key(), setting.text(), text, now)
            )
        except sqlite3.DatabaseError as error:
            raise _refused(self.path, error) from error
        return done.rowcount == 1

    def close(self) -> None:
        """Closes the file and frees it for others."""
        self._connection.close()

    def _checked(self) -> sqlite3.Connection:
        """The open file, if it is a store of this version and whole."""
        connection = _opened(self.path)
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            names = [
                name for (name,) in connection.execute("SELECT name FROM sqlite_schema")
            ]
            if version == 0 and not names:
                _make(connection)
            elif version != VERSION or "runs" not in names:
                raise CommandError(
                    f"{self.path!r} has the version {version}; this keras-e2e reads and "
                    f"writes version {VERSION}. Use the keras-e2e that wrote it, or give "
                    "another --output_dir."
                )
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok" or not all(
                map(_whole, connection.execute("SELECT * FROM runs"))
            ):
                error = sqlite3.DatabaseError(found)
                error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise error
        except BaseException:
            connection.close()
            raise
        return connection

    def _repair(self) -> None:
        """Puts a file with what can be read in the place of a damaged one."""
        try:
            rows = _readable(self.path)
            numbers = itertools.count(1)
            aside = next(
                name
                for name in (f"{self.path}.damaged-{n}" for n in numbers)
                if not os.path.lexists(name)
            )
            fresh = f"{self.path}.repaired"
            with contextlib.suppress(FileNotFoundError):
                os.remove(fresh)  # of a repair that was interrupted
            with contextlib.closing(_opened(fresh)) as connection:
                _make(connection, rows)
            shutil.copy2(self.path, aside)
            # Left beside the new file it would be rolled back into it.
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}-journal", f"{aside}-journal")
            os.replace(fresh, self.path)
        except (OSError, sqlite3.DatabaseError) as error:
            raise _refused(self.path, error) from error
        self.notices.append(
            f"{self.path!r} was damaged. It is kept as {aside!r}; {len(rows)} of its runs "
            "could be read and stay, the others will be run again."
        )


def _opened(path: str) -> sqlite3.Connection:
    """A connection that has the file to itself until it closes, or the process dies."""
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    # Bytes that are no text any more are found by what they say, row by row.
    connection.text_factory = lambda data: data.decode(errors="replace")
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        # Also against a power cut: EXTRA is FULL, and the folder is synchronized as well.
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _make(connection: sqlite3.Connection, rows: Iterable[Row] = ()) -> None:
    """The table, the version and the rows in one transaction."""
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute(TABLE)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.executemany(INSERT, rows)
    connection.execute("COMMIT")


def _readable(path: str) -> list[Row]:
    """What can be read of a damaged file, from its beginning and from its end."""
    rows: dict[str, Row] = {}
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        contextlib.closing(_opened(path)) as connection,
    ):
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.DatabaseError):
                query = f"SELECT * FROM runs NOT INDEXED ORDER BY rowid {order}"
                for row in connection.execute(query):
                    if _whole(row):
                        rows[row[0]] = row
    return list(rows.values())


def _whole(row: Row) -> bool:
    """Whether a row holds what was written."""
    key, setting, result, _ = row
    try:
        return Setting.from_text(setting).key() == key and isinstance(
            json.loads(result), dict
        )
    except (TypeError, ValueError):
        return False


def _code(error: sqlite3.DatabaseError) -> int:
    """SQLite's result code, without what extends it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _refused(path: str, error: Exception) -> CommandError:
    if isinstance(error, sqlite3.DatabaseError) and _code(error) in LOCKED:
        return CommandError(
            f"Another process is at work on {path!r}. Wait until it has ended, or give "
            "another --output_dir."
        )
    return CommandError(
        f"{path!r} cannot be read or written: {error}. Repair that, or give another "
        "--output_dir."
    )
