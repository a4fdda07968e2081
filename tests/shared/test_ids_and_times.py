"""UUIDv7 and RFC 3339."""

import time
import uuid

import pytest

from shared import ids, times

ID = "01932f3e-7b1a-7c3d-9e4f-0123456789ab"


def test_an_id_is_a_canonical_uuid_of_version_7() -> None:
    made = ids.new()
    assert ids.is_canonical(made)
    assert str(uuid.UUID(made)) == made
    assert (uuid.UUID(made).version, uuid.UUID(made).variant) == (7, uuid.RFC_4122)


def test_an_id_begins_with_its_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(ids.new()).int >> 80
    assert before <= made <= time.time_ns() // 1_000_000


def test_ids_of_one_process_are_unique_and_keep_their_order() -> None:
    made = [ids.new() for _ in range(5000)]
    assert made == sorted(set(made))


SPELLINGS = [
    "",
    ID.upper(),
    ID.replace("-", ""),
    "{" + ID + "}",
    "urn:uuid:" + ID,
    ID + " ",
    ID + "\n",
    ID[:-1],
    ID + "0",
    ID.replace("-7c3d-", "-4c3d-"),
    ID.replace("-9e4f-", "-ce4f-"),
    ID.replace("0", "٠"),
    ID.replace("0", "g"),
    "0" * 10_000,
]


@pytest.mark.parametrize("text", SPELLINGS, ids=lambda text: ascii(text[:50]))
def test_any_other_spelling_is_not_canonical(text: str) -> None:
    assert not ids.is_canonical(text)


TIMES = [
    (0, "1970-01-01T00:00:00.000Z"),
    (1_795_336_200_123, "2026-11-22T08:30:00.123Z"),
    (-1, "1969-12-31T23:59:59.999Z"),
    (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
]


@pytest.mark.parametrize(("milliseconds", "text"), TIMES)
def test_a_time_is_written_in_utc_with_milliseconds(milliseconds: int, text: str) -> None:
    assert times.to_text(milliseconds) == text


@pytest.mark.parametrize(("milliseconds", "text"), TIMES)
def test_a_time_is_read_as_it_was_written(milliseconds: int, text: str) -> None:
    assert times.from_text(text) == milliseconds


SAME = [
    "2026-11-22T08:30:00Z",
    "2026-11-22t08:30:00z",
    "2026-11-22 08:30:00Z",
    "2026-11-22T08:30:00.000000000Z",
    "2026-11-22T10:00:00+01:30",
    "2026-11-21T23:30:00-09:00",
    "2026-11-22T08:30:00-00:00",
]


@pytest.mark.parametrize("text", SAME)
def test_the_forms_of_rfc_3339_are_read(text: str) -> None:
    assert times.to_text(times.from_text(text)) == "2026-11-22T08:30:00.000Z"


OTHER = [
    "",
    "now",
    "2026-11-22",
    "2026-11-22T08:30:00",
    "2026-11-22T08:30Z",
    "20261122T083000Z",
    "2026-11-22T08:30:00,5Z",
    "2026-11-22T08:30:00.Z",
    "2026-13-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-11-22T25:00:00Z",
    "2026-11-22T08:30:00+0100",
    "2026-11-22T08:30:00+24:00",
    "2026-11-22T08:30:00+01:60",
    "0000-01-01T00:00:00Z",
    "2026-11-22T08:30:00Z\n",
    " 2026-11-22T08:30:00Z",
    "٢٠٢٦-11-22T08:30:00Z",
    "1763800200",
    "2026-W47-7T08:30:00Z",
]


@pytest.mark.parametrize("text", OTHER, ids=ascii)
def test_anything_else_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        times.from_text(text)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01"])
def test_a_time_that_could_not_be_written_again_in_utc_is_no_time(text: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        times.from_text(text)
