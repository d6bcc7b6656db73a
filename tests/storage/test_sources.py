"""Whether two records are of the same source."""

from __future__ import annotations

from ablations.storage.sources import FILE, list_changed, take_source

OWN = {"network_source": "a", "network_modules": {"net": ["a", "b"], "parts": ["c", "d"]}}


def test_a_module_is_the_same_if_its_file_or_its_code_is():
    assert list_changed({}, {}) == list_changed(OWN, OWN) == []
    assert list_changed(OWN, {"network_modules": {"net": ["x", "b"], "parts": ["c", "x"]}}) == []
    assert list_changed(OWN, {"network_modules": {"net": ["x", "y"], "parts": ["c", "d"]}}) == ["net"]
    assert list_changed(OWN, {"network_modules": {"net": ["a", "b"], "more": ["e"]}}) == ["more", "parts"]


def test_files_are_compared_where_both_name_them():
    """Two levels of one class may start from different files."""
    one, other = ({**OWN, "network_files": files} for files in ({"a.pt": ["1"], "b.pt": ["2"]}, {"a.pt": ["3"]}))
    assert list_changed(one, other) == ["a.pt"]
    assert list_changed(one, {**OWN, "network_files": {"c.pt": ["3"]}}) == list_changed(one, OWN) == []


def test_the_source_is_taken_from_an_environment():
    assert take_source({**OWN, "torch": "2", "network_files": {}}) == {**OWN, "network_files": {}}
    assert take_source({"torch": "2"}) == {}


def test_records_of_older_versions_know_one_file():
    assert list_changed({"network_source": "a"}, OWN) == []
    assert list_changed({"network_source": "x"}, OWN) == list_changed(OWN, {"network_source": "x"}) == [FILE]
