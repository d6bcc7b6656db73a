"""Whether two records are of the same source."""

from __future__ import annotations

from ablations.storage.sources import FILE, list_changed

OWN = {"network_source": "a", "network_modules": {"net": ["a", "b"], "parts": ["c", "d"]}}


def test_a_module_is_the_same_if_its_file_or_its_code_is():
    assert list_changed({}, {}) == list_changed(OWN, OWN) == []
    assert list_changed(OWN, {"network_modules": {"net": ["x", "b"], "parts": ["c", "x"]}}) == []
    assert list_changed(OWN, {"network_modules": {"net": ["x", "y"], "parts": ["c", "d"]}}) == ["net"]
    assert list_changed(OWN, {"network_modules": {"net": ["a", "b"], "more": ["e"]}}) == ["more", "parts"]


def test_records_of_older_versions_know_one_file():
    assert list_changed({"network_source": "a"}, OWN) == []
    assert list_changed({"network_source": "x"}, OWN) == list_changed(OWN, {"network_source": "x"}) == [FILE]
