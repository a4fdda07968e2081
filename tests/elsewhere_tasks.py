"""Tasks whose code runs elsewhere: only their signatures are here."""

from only_post_svc import Context, task


@task("thumbs.make", timeout=60, max_attempts=3, elsewhere=True)
def make_thumbs(url: str, sizes: list[int] = []) -> dict: ...  # type: ignore[type-arg, empty-body]  # noqa: B006


@task("thumbs.brief", timeout=1, max_attempts=2, elsewhere=True)
def make_brief(url: str = "") -> None: ...


@task("trace.seen")
def see_trace(*, context: Context) -> str | None:
    print("seen")
    return context.traceparent
