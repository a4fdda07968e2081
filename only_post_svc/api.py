"""The routes."""

from only_post_svc.handlers import elsewhere, schedules, service, submit, task_types, tasks
from shared.routing import Path


def routes(*, health_get: bool) -> list[Path]:
    probe = {"GET": (service.health, service.GET_HEALTH)} if health_get else {}
    return [
        Path("/api/task", POST=(submit.submit, submit.SUBMIT)),
        Path("/api/result", POST=(tasks.result, tasks.RESULT)),
        Path("/api/batch", POST=(submit.submit_batch, submit.BATCH)),
        Path("/api/cancel", POST=(tasks.cancel, tasks.CANCEL)),
        Path("/api/retry", POST=(tasks.retry, tasks.RETRY)),
        Path("/api/tasks", POST=(tasks.list_tasks, tasks.LIST)),
        Path("/api/schedule", POST=(schedules.schedule, schedules.SCHEDULE)),
        Path("/api/schedules", POST=(schedules.list_schedules, schedules.SCHEDULES)),
        Path("/api/unschedule", POST=(schedules.unschedule, schedules.UNSCHEDULE)),
        Path("/api/claim", POST=(elsewhere.claim, elsewhere.CLAIM)),
        Path("/api/renew", POST=(elsewhere.renew, elsewhere.RENEW)),
        Path("/api/finish", POST=(elsewhere.finish, elsewhere.FINISH)),
        Path("/api/pause", POST=(task_types.pause, task_types.PAUSE)),
        Path("/api/resume", POST=(task_types.resume, task_types.RESUME)),
        Path("/api/types", POST=(task_types.list_types, task_types.TYPES)),
        Path("/health", POST=(service.health, service.HEALTH), **probe),
        Path("/metrics", POST=(service.show_metrics, service.METRICS)),
        Path("/openapi.json", POST=(service.show_document, service.OPENAPI)),
    ]
