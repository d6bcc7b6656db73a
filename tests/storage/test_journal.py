"""The journal of a results folder: whole lines, added only, and known as ours."""

from __future__ import annotations

import json
import re

import pytest

from ablations.storage.files import StorageError
from ablations.storage.journal import NAME, is_journal, open_journal


def test_each_event_is_a_line_with_its_time_and_job(tmp_path):
    for event in ("started", "finished"):
        with open_journal(tmp_path) as note:
            note(event, "a" * 16, name="base, seed 0")
    first, second = map(json.loads, (tmp_path / NAME).read_text().splitlines())
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ", first.pop("time"))
    assert first == {"event": "started", "job": "a" * 16, "name": "base, seed 0"}
    assert second["event"] == "finished"


def test_a_line_that_was_cut_off_stays_alone(tmp_path):
    (tmp_path / NAME).write_bytes(b'{"time": "2026')
    with open_journal(tmp_path) as note:
        note("started", "b" * 16)
    cut, line = (tmp_path / NAME).read_text().splitlines()
    assert (cut, json.loads(line)["job"]) == ('{"time": "2026', "b" * 16)


@pytest.mark.parametrize("content", [b"", b"my own events\n", b'{"event": "x"}\n', b"[1]\n", b"7\n"])
def test_a_file_of_the_user_s_is_no_journal(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    assert not is_journal(tmp_path / NAME)


def test_a_journal_is_known_by_its_first_line(tmp_path):
    with open_journal(tmp_path) as note:
        note("started", "c" * 16)
    assert is_journal(tmp_path / NAME)
    assert not is_journal((tmp_path / NAME).rename(tmp_path / "other.jsonl"))


def test_a_link_in_its_place_is_told(tmp_path):
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"events\.jsonl cannot be written: it is a link"), open_journal(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()
