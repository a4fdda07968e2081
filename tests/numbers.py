"""Prometheus' text format, read as strictly as its collectors read it."""

import re
from collections import defaultdict

HEAD = re.compile(r"# HELP ([a-z_]+) \S.*\n# TYPE \1 (counter|gauge|histogram)")
LABEL = r'[a-z]+="(?:[^"\\]|\\[\\"n])*"'
SAMPLE = re.compile(rf"([a-z_]+?)(_bucket|_sum|_count)?(\{{{LABEL}(?:,{LABEL})*\}})? ([\d.e-]+)")


def read(text: str) -> dict[str, float]:
    """Each sample's value, by its name and labels as they stand there."""
    assert text.endswith("\n")
    found: dict[str, float] = {}
    seen: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("#"):
            head = HEAD.fullmatch(f"{line}\n{next(lines)}")
            assert head and head[1] not in seen, line
            seen.append(head[1])
            assert head[2] != "counter" or head[1].endswith("_total")
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample and seen and seen[-1] in (sample[1], f"{sample[1]}{sample[2]}"), line
        key = line.rpartition(" ")[0]
        assert key not in found, line
        found[key] = float(sample[4])
    return found


def summed(samples: dict[str, float], label: str) -> dict[str, float]:
    """Without a label: what differs in nothing else is added up."""
    found: dict[str, float] = defaultdict(float)
    for key, value in samples.items():
        found[re.sub(rf'{label}="[^"]*",?', "", key).replace("{}", "")] += value
    return found
