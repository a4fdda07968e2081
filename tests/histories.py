"""Histories that Hypothesis makes up, each step held against a model: the same ones every time, and more of them with
HISTORIES=1000."""

import os

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

HISTORIES = settings(
    max_examples=int(os.environ.get("HISTORIES", "10")),
    stateful_step_count=50,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def live_through(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=HISTORIES)
