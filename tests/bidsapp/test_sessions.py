"""Sessions in time, and what sessions.tsv says of them."""

import pandas as pd
import pytest

from bidsapp.sessions import ordered, read_sessions
from models.errors import InputError
from pipelines.derivatives import write_table


def sessions(folder, person, **columns):
    write_table(folder / person / f"{person}_sessions.tsv", pd.DataFrame(columns))


def test_tables_are_joined_and_names_mended(tmp_path):
    sessions(tmp_path, "sub-1", session_id=["ses-a", "b"], diagnosis=["CN", "AD"])
    sessions(tmp_path, "sub-2", session_id=["1"], age=[70])
    found = read_sessions(tmp_path, {"sub-1", "sub-2", "sub-3"})
    assert found["participant_id"].tolist() == ["sub-1", "sub-1", "sub-2"]
    assert found["session_id"].tolist() == ["ses-a", "ses-b", "ses-1"]
    assert found["diagnosis"].tolist()[:2] == ["CN", "AD"]


def test_nobody_has_a_table(tmp_path):
    found = read_sessions(tmp_path, {"sub-1"})
    assert found.empty
    assert list(found) == ["participant_id", "session_id"]


def test_a_table_without_sessions_is_refused(tmp_path):
    sessions(tmp_path, "sub-1", visit=["a"])
    with pytest.raises(InputError, match=r"sub-1_sessions\.tsv: has no column session_id"):
        read_sessions(tmp_path, {"sub-1"})
    (tmp_path / "sub-1/sub-1_sessions.tsv").write_bytes(b"")
    with pytest.raises(InputError, match=r"sub-1_sessions\.tsv: not a tab-separated"):
        read_sessions(tmp_path, {"sub-1"})


def test_time_goes_before_labels_where_it_is_known_for_all(tmp_path):
    times = {"acq_time": ["2020-05-01T10:00:00", "2019-05-01T10:00:00"]}
    sessions(tmp_path, "sub-1", session_id=["post", "pre"], **times)
    sessions(tmp_path, "sub-2", session_id=["post", "pre"], acq_time=[times["acq_time"][0], "n/a"])
    people = ["sub-1", "sub-2", "sub-3"]
    keys = [(one, session) for one in people for session in ("post", "pre")]
    found = ordered([*keys, ("sub-4", "10"), ("sub-4", "2")], read_sessions(tmp_path, people))
    assert found["sub-1"] == ["pre", "post"]
    assert found["sub-2"] == found["sub-3"] == ["post", "pre"]
    assert found["sub-4"] == ["2", "10"]
