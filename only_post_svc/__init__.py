"""Python functions as a durable job API that speaks nothing but POST."""

from only_post_svc.registry import Context, Fail, Retry, task

__all__ = ["Context", "Fail", "Retry", "task"]
