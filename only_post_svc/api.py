"""The application as a request meets it: the middleware from the outside in, then the routes."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.middleware import Middleware

from only_post_svc.handlers import elsewhere, schedules, service, submit, task_types, tasks
from only_post_svc.settings import Settings
from only_post_svc.state import State
from shared.errors import ExceptionHandler
from shared.middleware.access_log import AccessLog
from shared.middleware.body_limit import BodyLimit
from shared.middleware.cors import CORS
from shared.middleware.cross_site import CrossSite
from shared.middleware.https_only import HTTPSOnly
from shared.middleware.request_id import RequestId
from shared.middleware.single_headers import SingleHeaders
from shared.post_only import PostOnly
from shared.rate_limits import CountAll
from shared.routing import Path, Routes


def create_app(settings: Settings, lifespan: Callable[[Settings], AbstractAsyncContextManager[State]]) -> Routes:
    health_paths = frozenset({"/health"} if settings.health_get else ())
    return Routes(
        routes(health_get=settings.health_get),
        middleware=[
            Middleware(RequestId),
            Middleware(AccessLog),
            *([Middleware(CORS, settings.cors_origins, ["POST"])] if settings.cors_origins else []),
            Middleware(PostOnly, get_paths=health_paths),
            *([Middleware(HTTPSOnly)] if settings.require_https else []),
            Middleware(ExceptionHandler),
            *([Middleware(CountAll)] if settings.rate_limits.other else []),
            Middleware(SingleHeaders),
            *([_cross_site(settings)] if settings.task_auth == "off" else []),
            Middleware(BodyLimit, max_bytes=settings.max_body_bytes),
        ],
        lifespan=lambda app: lifespan(settings),
    )


def _cross_site(settings: Settings) -> Middleware:
    hosts, origins = settings.allowed_hosts, settings.cors_origins
    return Middleware(CrossSite, hosts, origins, is_local_only=settings.is_local_only)


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
