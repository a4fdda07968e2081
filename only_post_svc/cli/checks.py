"""What the doctor looks at in this service alone."""

import asyncio
import contextlib
from collections.abc import Collection, Iterator

from only_post_svc import health
from only_post_svc.settings import Settings
from only_post_svc.worker.children import describe_types
from shared.cli.doctor import Finding, graver
from shared.database import connection
from shared.errors import Problem
from shared.settings import SettingsError, is_this_machine


def types(settings: Settings) -> Iterator[Finding]:
    try:
        found = asyncio.run(describe_types(settings))
    except SettingsError as error:
        yield Finding("tasks", "fail", str(error))
    else:
        if found:
            yield Finding("tasks", "ok", f"{len(found)} task types")
        else:
            yield Finding("tasks", "warn", "no task types: name your modules in TASK_MODULES, or set SHIPPED_TASKS=on")
        yield from _waiting(settings, found)


def _waiting(settings: Settings, types: Collection[str]) -> Iterator[Finding]:
    """Queued tasks whose type no module has."""
    file = connection.file_of(settings.database_url)
    if file is not None and not file.exists():
        return
    with contextlib.suppress(SettingsError, Problem):  # the check of the database says so
        for type, count in asyncio.run(_unknown(settings.database_url, types)).items():
            advice = f"{count} queued of type {type}, which no code here has; name its module in TASK_MODULES"
            yield Finding("tasks", "warn", advice)


async def _unknown(url: str, types: Collection[str]) -> dict[str, int]:
    database = await connection.connect(url, {})
    try:
        return await database.query(lambda tx: health.unknown_types(tx, types))
    finally:
        await database.close()


def callers(settings: Settings) -> Iterator[Finding]:
    if settings.task_auth == "off" and not is_this_machine(settings.host):
        advice = f"anyone who reaches {settings.host} can run tasks; set TASK_AUTH=required"
        yield Finding("callers", graver(settings), advice)
    elif settings.task_auth == "required" and str(settings.development_secret_file) in settings.secret_origin:
        made = settings.development_secret_file.parent
        advice = f"only tokens of a service that was started with STATE_DIR={made} are taken; set SECRET_KEY for both"
        yield Finding("callers", "warn", advice)
    else:
        yield Finding("callers", "ok", f"TASK_AUTH={settings.task_auth} on {settings.host}")


ALL = (types, callers)
