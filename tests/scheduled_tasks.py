"""Tasks that stand in code with their schedules."""

from only_post_svc import task


@task("tidy", timeout=5, every=1)
def tidy() -> str:
    """Run every second."""
    return "tidied"
