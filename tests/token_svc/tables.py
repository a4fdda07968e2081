"""The service's tables, and a clock that stands still until the test moves it."""

import sqlite3

from shared.database.sqlite_transaction import Transaction

START = 1_795_336_200_000


class Tables(Transaction):
    """A transaction for units of work, in memory; `tables.clock += 1000` lets a second go by."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.clock = START

    @property
    def now(self) -> int:
        return self.clock
