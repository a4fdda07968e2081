"""Whether the database answers."""

from shared import VERSION
from shared.database import Database
from shared.errors import Unavailable
from shared.health import Report, probe


async def look(database: Database) -> Report:
    try:
        answered = await probe(database)
    except Unavailable as problem:
        silent = {"status": "unavailable", "detail": problem.detail}
        return Report(False, {"status": "degraded", "version": VERSION, "database": silent})
    return Report(True, {"status": "ok", "version": VERSION, "database": answered})
