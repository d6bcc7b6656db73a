"""The store: published once, whole or not at all, and every damage found."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablations import records

RECORD = {"id": "00112233aabbccdd", "kind": "run", "deterministic": {"test_accuracy": 97.5, "history": [1, 2.5]}}


def test_a_record_comes_back_as_it_was_published(tmp_path):
    assert records.publish(tmp_path, RECORD)
    assert records.load(tmp_path) == ({RECORD["id"]: RECORD}, [])
    assert sorted(path.name for path in (tmp_path / "records").iterdir()) == ["00112233aabbccdd.json"]


def test_the_first_writer_wins(tmp_path):
    records.publish(tmp_path, RECORD)
    assert not records.publish(tmp_path, {**RECORD, "kind": "other"})
    assert records.load(tmp_path)[0][RECORD["id"]] == RECORD


def test_many_writers_make_one_record(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: records.publish(tmp_path, {**RECORD, "writer": number}), range(40)))
    assert sum(won) == 1
    assert len(list((tmp_path / "records").iterdir())) == 1


def test_every_truncation_is_found(tmp_path):
    records.publish(tmp_path, RECORD)
    path = tmp_path / "records" / "00112233aabbccdd.json"
    content = path.read_bytes()
    for length in range(len(content) - 1):  # the last byte is a line feed after the closing brace
        path.write_bytes(content[:length])
        with pytest.raises(records.Damaged):
            records.read(path)


def test_every_changed_byte_of_the_values_is_found(tmp_path):
    records.publish(tmp_path, RECORD)
    path = tmp_path / "records" / "00112233aabbccdd.json"
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                read = records.read(path)
            except records.Damaged:
                continue
            assert read == RECORD, f"byte {place}, bit {bit}"  # white space alone says nothing


def test_a_record_under_another_name_is_damaged(tmp_path):
    records.publish(tmp_path, RECORD)
    place = tmp_path / "records"
    (place / "00112233aabbccdd.json").rename(place / "ffff.json")
    assert records.load(tmp_path) == ({}, [place / "ffff.json"])


def test_a_damaged_record_is_set_aside_and_its_name_is_free_again(tmp_path):
    for _ in range(2):
        records.publish(tmp_path, RECORD)
        path = tmp_path / "records" / "00112233aabbccdd.json"
        path.write_bytes(b"{}")
        records.set_aside(path)
    names = sorted(path.name for path in (tmp_path / "records" / "damaged").iterdir())
    assert names == ["00112233aabbccdd.1.json", "00112233aabbccdd.json"]
    assert records.publish(tmp_path, RECORD)


def test_attempts_are_kept_beside_each_other_in_their_order(tmp_path):
    for number in range(12):
        records.note_attempt(tmp_path, {"id": "aa", "status": "failed", "reason": str(number)})
    reasons = [attempt["reason"] for attempt in records.load_attempts(tmp_path)["aa"]]
    assert reasons == [str(number) for number in range(12)]
    (tmp_path / "attempts" / "aa-1 copy.json").write_bytes((tmp_path / "attempts" / "aa-1.json").read_bytes())
    assert len(records.load_attempts(tmp_path)["aa"]) == 12
    assert records.load(tmp_path) == ({}, [])


def test_nan_never_enters_a_record(tmp_path):
    with pytest.raises(ValueError, match=r"NaN|not JSON compliant"):
        records.publish(tmp_path, {"id": "aa", "value": float("nan")})
    assert list((tmp_path / "records").iterdir()) == []


def test_a_failing_write_leaves_nothing_torn(tmp_path, monkeypatch):
    records.write(tmp_path / "x.csv", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        records.write(tmp_path / "x.csv", b"new")
    assert (tmp_path / "x.csv").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_writing_the_same_again_touches_nothing(tmp_path):
    records.write(tmp_path / "x.csv", b"same")
    before = (tmp_path / "x.csv").stat()
    records.write(tmp_path / "x.csv", b"same")
    assert (tmp_path / "x.csv").stat().st_mtime_ns == before.st_mtime_ns
    assert (tmp_path / "x.csv").stat().st_ino == before.st_ino


@given(
    st.dictionaries(
        st.text(),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    )
)
def test_canonical_text_is_one_per_value(value):
    text = records.canonical(value)
    assert records.canonical(dict(reversed(value.items()))) == text
    assert records.canonical(json.loads(text)) == text
