"""What `/health` says."""

from dataclasses import dataclass
from typing import Literal

from shared.openapi import DatabaseHealth


@dataclass(frozen=True)
class Health:
    status: Literal["ok", "degraded"]
    version: str
    database: DatabaseHealth
