"""The store: published once, whole or not at all, and every damage found."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablations.storage import files, records


def record_of(number: int = 0, **more: Any) -> dict[str, Any]:
    """A small record whose configuration hashes to its id."""
    config = {"seed": number}
    return {
        "id": records.identity({"kind": "run", "config": config}),
        "kind": "run",
        "config": config,
        "deterministic": {"test_accuracy": 97.5, "history": [{"epoch": 1}]},
        "measured": {"epoch_seconds": [2.5]},
        "environment": {},
        **more,
    }


RECORD = record_of()
NAME = f"{RECORD['id']}.json"


def test_a_record_comes_back_as_it_was_published(tmp_path):
    assert records.publish(tmp_path, RECORD)
    assert records.load(tmp_path) == ({RECORD["id"]: RECORD}, [])
    assert sorted(path.name for path in (tmp_path / "records").iterdir()) == [NAME]


def test_the_first_writer_wins(tmp_path):
    records.publish(tmp_path, RECORD)
    assert not records.publish(tmp_path, {**RECORD, "measured": {"epoch_seconds": [3.5]}})
    assert records.load(tmp_path)[0][RECORD["id"]] == RECORD


def test_many_writers_make_one_record(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: records.publish(tmp_path, {**RECORD, "writer": number}), range(40)))
    assert sum(won) == 1
    assert len(list((tmp_path / "records").iterdir())) == 1


def test_every_truncation_is_found(tmp_path):
    records.publish(tmp_path, RECORD)
    path = tmp_path / "records" / NAME
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(records.Damaged):
            records.read(path)


def test_every_changed_byte_is_found():
    content = records.seal(RECORD)
    assert not damaged(content)
    assert all(
        damaged(content[:place] + bytes([other]) + content[place + 1 :])
        for place, byte in enumerate(content)
        for other in range(256)
        if other != byte
    )


def damaged(content):
    try:
        return records.unseal(content) != RECORD
    except ValueError:
        return True


def test_a_record_can_be_verified_without_this_program(tmp_path):
    records.publish(tmp_path, RECORD)
    path = tmp_path / "records" / NAME
    found = subprocess.run(["bash", "-c", f"head -n -2 {path} | sha256sum"], capture_output=True, text=True, check=True)
    assert found.stdout.split()[0] == json.loads(path.read_text())["checksum"]


def test_eight_processes_and_500_jobs_make_500_records(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=publish_all, args=(tmp_path, number)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 8
    won = [json.loads((tmp_path / f"{number}.won").read_text()) for number in range(8)]
    assert sorted(itertools.chain(*won)) == sorted(record_of(job)["id"] for job in range(500))
    whole, damaged = records.load(tmp_path)
    assert (len(whole), damaged) == (500, [])
    assert all(name in won[record["writer"]] for name, record in whole.items()), "the winner's own is there"
    assert len(list((tmp_path / "records").iterdir())) == 500


def publish_all(folder, number):
    jobs = [record_of(job, writer=number) for job in random.Random(number).sample(range(500), 500)]
    won = [job["id"] for job in jobs if records.publish(folder, job)]
    (folder / f"{number}.won").write_text(json.dumps(won))


def test_what_cannot_be_read_is_not_taken_for_damaged(tmp_path):
    (tmp_path / "records" / "00112233aabbccdd.json").mkdir(parents=True)
    with pytest.raises(files.StorageError, match=r"aabbccdd\.json cannot be read: Is a directory"):
        records.load(tmp_path)


def test_a_record_under_another_name_is_damaged(tmp_path):
    records.publish(tmp_path, RECORD)
    place = tmp_path / "records"
    (place / NAME).rename(place / f"{'f' * 16}.json")
    assert records.load(tmp_path) == ({}, [place / f"{'f' * 16}.json"])


def test_a_damaged_record_is_set_aside_and_its_name_is_free_again(tmp_path):
    for _ in range(2):
        records.publish(tmp_path, RECORD)
        path = tmp_path / "records" / NAME
        path.write_bytes(b"{}")
        records.set_aside(path)
    names = sorted(path.name for path in (tmp_path / "records" / "damaged").iterdir())
    assert names == [f"{RECORD['id']}.1.json", NAME]
    assert records.publish(tmp_path, RECORD)


def test_attempts_are_kept_beside_each_other_in_their_order(tmp_path):
    for number in range(12):
        records.note_attempt(tmp_path, {"id": "aa" * 8, "status": "failed", "reason": str(number)})
    reasons = [attempt["reason"] for attempt in records.load_attempts(tmp_path)["aa" * 8]]
    assert reasons == [str(number) for number in range(12)]
    note = tmp_path / "attempts" / f"{'aa' * 8}-1.json"
    note.with_name(f"{'aa' * 8}-1 copy.json").write_bytes(note.read_bytes())
    assert len(records.load_attempts(tmp_path)["aa" * 8]) == 12
    assert records.load(tmp_path) == ({}, [])


def test_nan_never_enters_a_record(tmp_path):
    with pytest.raises(ValueError, match=r"NaN|not JSON compliant"):
        records.publish(tmp_path, {"id": "aa", "value": float("nan")})
    assert list(tmp_path.iterdir()) == []


@given(
    st.dictionaries(
        st.text(),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    )
)
def test_canonical_text_is_one_per_value(value):
    text = records.canonical_json(value)
    assert records.canonical_json(dict(reversed(value.items()))) == text
    assert records.canonical_json(json.loads(text)) == text


@given(bits=st.lists(st.booleans(), max_size=70))
def test_packed_booleans_come_back(bits):
    text = records.pack_bits(np.array(bits, dtype=bool))
    assert len(text) == 2 * -(-len(bits) // 8)
    assert records.unpack_bits(text, len(bits)).tolist() == bits
    with pytest.raises(ValueError, match="are not those of"):
        records.unpack_bits(text + "00", len(bits))


def test_ten_thousand_outcomes_take_two_and_a_half_kilobytes():
    assert len(records.pack_bits(np.ones(10_000, dtype=bool))) == 2500


def test_only_ids_name_records_and_the_rest_is_ignored(tmp_path):
    records.publish(tmp_path, RECORD)
    place = tmp_path / "records"
    beside = [f"{RECORD['id']} (1).json", f"._{NAME}", f"{RECORD['id']}.sync-conflict-20240101.json", "notes.json"]
    for name in beside:
        (place / name).write_bytes((place / NAME).read_bytes())
    (place / "damaged").mkdir()
    (place / f".host.{1}.0123abcd.tmp").touch()
    assert records.load(tmp_path) == ({RECORD["id"]: RECORD}, [])
    assert sorted(path.name for path in records.list_ignored(tmp_path)) == sorted(beside)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: record["config"].update(seed=7), "its configuration has another id"),
        (lambda record: record.update(kind="tuning"), "it has no 'tuning.deterministic.validation_accuracy'"),
        (lambda record: record.update(kind=[]), "Input tag"),
        (lambda record: record.pop("environment"), "it has no 'run.environment'"),
        (lambda record: record["deterministic"].update(test_accuracy="97"), "test_accuracy"),
        (lambda record: record["deterministic"].update(test_accuracy=True), "test_accuracy"),
        (lambda record: record["deterministic"].update(test_accuracy=197), "test_accuracy"),
        (lambda record: record["deterministic"].update(test_outcomes="abc"), "test_outcomes"),
        (
            lambda record: record["deterministic"].update(test_outcomes="ab", test_images=9),
            "another length than its images",
        ),
        (lambda record: record["measured"].update(epoch_seconds=[]), "have different lengths"),
        (lambda record: record["measured"].update(epoch_seconds=[0]), "epoch_seconds.0"),
        (lambda record: record["environment"].update(commit="\x1b[31m"), "environment.commit"),
        (lambda record: record["environment"].update(commit=["x"]), "environment.commit"),
        (lambda record: record["environment"].update(threads="x"), "environment.threads"),
        (lambda record: record["environment"].update(limits=3), "environment.limits"),
        (lambda record: record["environment"].update(network_modules=[]), "environment.network_modules"),
        (lambda record: record["deterministic"].update(test_outcomes="ab"), "another length than its images"),
    ],
)
def test_a_sealed_record_with_odd_fields_is_no_record(tmp_path, change, said):
    """Whoever seals a record again may write anything into it."""
    record = json.loads(json.dumps(RECORD))
    change(record)
    records.publish(tmp_path, record)
    with pytest.raises(records.Damaged, match=said):
        records.read(tmp_path / "records" / NAME)


def test_half_a_surrogate_in_a_message_stops_nobody(tmp_path):
    note = {"id": "aa" * 8, "status": "failed", "reason": "no \ud800 in \U0001f600"}
    records.note_attempt(tmp_path, note)
    files.create(tmp_path / "attempts" / f"{'aa' * 8}-2.json", records.seal(note))  # by an older version
    told = [each["reason"] for each in records.load_attempts(tmp_path)["aa" * 8]]
    assert told == [r"no \ud800 in " + "\U0001f600"] * 2


def test_a_pipe_as_a_record_blocks_nobody(tmp_path):
    (tmp_path / "records").mkdir()
    os.mkfifo(tmp_path / "records" / NAME)
    with pytest.raises(files.StorageError, match="cannot be read: it is no regular file"):
        records.load(tmp_path)
