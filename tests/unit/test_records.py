"""Records: the layout of a line, durable appends, torn ends, foreign files, shards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import RecordsError
from harness.records import RecordStore, load_records, record_files, record_line, scan_records
from harness.types import (
    Cell,
    DatasetRef,
    Measurement,
    ResolvedRef,
    ResultRecord,
    Seeds,
    View,
    WeightsInfo,
    canonical_json,
)


def make_cell(level: float = 0.5) -> Cell:
    return Cell(
        model=ResolvedRef(kind="model", name="vit_b16", use="timm_vit", params={"tag": "augreg"}),
        weights=WeightsInfo(origin="pretrained", identity="pretrained:augreg"),
        dataset=DatasetRef(
            ref=ResolvedRef(kind="dataset", name="digits", use="digits"),
            split="test",
            fingerprint="f0",
            label_space="digits",
            num_classes=10,
        ),
        view=View(resize=256, crop=224),
        perturbation=ResolvedRef(kind="perturbation", name="patchdrop_random", use="patchdrop", params={"grid": 14}),
        level=level,
        probe=ResolvedRef(kind="probe", name="fewshot", use="fewshot"),
        seeds=Seeds(perturb=0, probe=1),
        support=ResolvedRef(kind="perturbation", name="none", use="none"),
        support_split="train",
    )


def make_record(key: str = "k0", value: float = 0.25, text: str = "") -> ResultRecord:
    return ResultRecord(
        key=key,
        cell=make_cell().as_dict(),
        measurements=(
            Measurement(metric="accuracy", value=value, n=8, dims={"shots": 5}, low=0.1, high=0.5, interval="wilson95"),
        ),
        environment={"device": "cpu", "note": text},
    )


GOLDEN_LINE = (
    '{"schema":1,"key":"k0","cell":{"model":"vit_b16","weights":"pretrained:augreg","dataset":"digits","split":"test",'
    '"fingerprint":"f0","limit":null,"label_space":"digits","num_classes":10,'
    '"view":"resize=256,crop=224,interpolation=bilinear",'
    '"support":{"perturbation":"none","level":null,"split":"train"},"perturbation":"patchdrop_random","level":0.5,'
    '"probe":"fewshot","seeds":{"perturb":0,"support_perturb":null,"probe":1},"precision":"fp32","components":{'
    '"model":{"use":"timm_vit","version":1,"params":{"tag":"augreg"},"fingerprint":"45007c398c136c48"},'
    '"dataset":{"use":"digits","version":1,"params":{},"fingerprint":"5cea46c11e46822e"},'
    '"perturbation":{"use":"patchdrop","version":1,"params":{"grid":14},"fingerprint":"dcd5fbe7b49ac389"},'
    '"probe":{"use":"fewshot","version":1,"params":{},"fingerprint":"2cac3f868bf92677"},"support":{"use":"none","version":1,"params":{},"fingerprint":"64f0048b107d31cf"}}},'
    '"measurements":[{"metric":"accuracy","dims":{"shots":5},"value":0.25,"low":0.1,"high":0.5,"interval":"wilson95",'
    '"n":8,"unit":"fraction","higher_is_better":true}],"environment":{"device":"cpu","note":""}}\n'
)


# --- a line ----------------------------------------------------------------------------------------------------


def test_the_layout_of_a_line_is_pinned() -> None:
    assert record_line(make_record()) == GOLDEN_LINE


def test_a_line_has_the_documented_blocks() -> None:
    raw = json.loads(record_line(make_record()))
    assert list(raw) == ["schema", "key", "cell", "measurements", "environment"]
    documented = {"model", "weights", "dataset", "view", "support", "perturbation", "level", "probe", "seeds"}
    assert documented <= set(raw["cell"])
    assert {"metric", "dims", "value", "low", "high", "interval", "n", "unit"} <= set(raw["measurements"][0])


def test_a_cell_that_does_not_apply_says_why_in_its_line() -> None:
    record = ResultRecord(key="k", cell=make_cell().as_dict(), not_applicable="no head")
    assert json.loads(record_line(record))["not_applicable"] == "no head"


@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    text=st.text(),
    key=st.text(min_size=1),
    n=st.integers(0, 2**40),
)
def test_a_record_reads_back_as_it_was(tmp_path_factory: Any, value: float, text: str, key: str, n: int) -> None:
    path = tmp_path_factory.mktemp("line") / "records.jsonl"
    measurement = Measurement(
        metric=text or "m", value=value, n=n, dims={"head": text, "k": n, "x": value, "none": None}
    )
    record = ResultRecord(key=key, cell=make_cell().as_dict(), measurements=(measurement,), environment={"t": text})
    path.write_bytes(record_line(record).encode("ascii"))
    (read,) = load_records(path)
    assert read == ResultRecord(
        key=key,
        cell=json.loads(json.dumps(record.cell)),
        measurements=(measurement,),
        environment={"t": text},
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_numbers_that_json_cannot_hold_are_refused_by_name(tmp_path: Path, value: Any) -> None:
    with RecordStore(tmp_path) as store:
        with pytest.raises(RecordsError, match=r"accuracy.*shots"):
            store.append(make_record(value=value))
        assert store.records() == []
        assert store.append(make_record())


# --- appending -------------------------------------------------------------------------------------------------


def test_an_append_is_on_disk_at_once_and_a_known_key_is_refused(tmp_path: Path) -> None:
    with RecordStore(tmp_path / "new" / "folder") as store:
        assert store.append(make_record("a", 0.1))
        assert [record.key for record in load_records(store.folder)] == ["a"]
        before = store.path.read_bytes()
        assert not store.append(make_record("a", 0.9))
        assert store.path.read_bytes() == before
        assert store.append(make_record("b"))
        assert store.keys() == {"a", "b"}
        assert "a" in store
        assert "c" not in store
    with RecordStore(tmp_path / "new" / "folder") as store:
        assert store.repaired is None
        assert store.keys() == {"a", "b"}
        assert not store.append(make_record("b"))


def test_every_record_is_synced_after_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    with RecordStore(tmp_path) as store:
        write, fsync = os.write, os.fsync
        monkeypatch.setattr(os, "write", lambda *a: (calls.append("write"), write(*a))[1])
        monkeypatch.setattr(os, "fsync", lambda *a: (calls.append("fsync"), fsync(*a))[1])
        store.append(make_record("a"))
        store.append(make_record("b"))
    assert calls == ["write", "fsync"] * 2


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    with RecordStore(tmp_path) as store:
        pass
    with pytest.raises(RecordsError, match="closed"):
        store.append(make_record())


def test_a_second_writer_is_refused_and_shards_are_not(tmp_path: Path) -> None:
    with RecordStore(tmp_path, shard=(1, 2)) as first, RecordStore(tmp_path, shard=(2, 2)) as second:
        with pytest.raises(RecordsError, match=str(os.getpid())):
            RecordStore(tmp_path, shard=(2, 2))
        first.append(make_record("a"))
        second.append(make_record("b"))
        assert {path.name for path in tmp_path.glob("records*")} == {"records-1of2.jsonl", "records-2of2.jsonl"}
    with RecordStore(tmp_path) as whole:
        assert whole.keys() == {"a", "b"}
        assert not whole.append(make_record("a"))


@pytest.mark.parametrize("shard", [(0, 2), (3, 2)])
def test_a_shard_that_does_not_exist_is_refused(tmp_path: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(RecordsError, match="does not exist"):
        RecordStore(tmp_path, shard=shard)


def test_a_failed_opening_gives_the_lock_back(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("garbage\n" + GOLDEN_LINE)
    for _ in range(2):
        with pytest.raises(RecordsError, match=r"records\.jsonl:1"):
            RecordStore(tmp_path)
    (tmp_path / "records.jsonl").unlink()
    RecordStore(tmp_path).close()


def test_a_file_in_the_place_of_the_folder_or_of_the_records(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match="is a file"):
        RecordStore(tmp_path / "file")
    (tmp_path / "records.jsonl").mkdir()
    with pytest.raises(RecordsError, match="cannot write"):
        RecordStore(tmp_path)


def test_a_full_disk_leaves_whole_lines_and_the_next_append_works(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    with RecordStore(tmp_path) as store:
        store.append(make_record("a"))
        size = store.path.stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))  # the next write is cut after 100 bytes
        try:
            with pytest.raises(RecordsError, match="cannot append"):
                store.append(make_record("b"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert store.path.stat().st_size == size
        assert store.append(make_record("b"))
        assert [record.key for record in store.records()] == ["a", "b"]


KILLED_WRITER = """
import sys
sys.path.insert(0, {root!r})
from harness.records import RecordStore
from harness.types import ResultRecord
with RecordStore(sys.argv[1]) as store:
    for i in range(10**6):
        store.append(ResultRecord(key=str(i), cell={{"n": i}}))
        print(i, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_what_a_killed_writer_reported_is_there_and_the_folder_opens_again(tmp_path: Path) -> None:
    script = KILLED_WRITER.format(root=str(Path(__file__).resolve().parents[2]))
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 20:
        pass
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().split("\n")[:-1]
    last = max(20, *map(int, rest), 0)
    process.stdout.close()
    process.wait()
    with RecordStore(tmp_path) as store:
        keys = [record.key for record in store.records()]
        assert keys[: last + 1] == [str(i) for i in range(last + 1)]
        assert len(keys) <= last + 2


# --- torn ends -------------------------------------------------------------------------------------------------


def test_a_last_line_cut_at_any_byte_is_passed_over_and_then_repaired(tmp_path: Path) -> None:
    whole = [record_line(make_record(key)).encode() for key in ("a", "b", "c")]
    path = tmp_path / "records.jsonl"
    start = len(whole[0]) + len(whole[1])
    for cut in range(1, len(whole[2])):
        path.write_bytes(b"".join(whole)[: start + cut])
        scan = scan_records(tmp_path)
        assert [record.key for record in scan.records] == ["a", "b"]
        assert [(torn.line, torn.content) for torn in scan.torn] == [(3, whole[2][:cut])]
    with RecordStore(tmp_path) as store:
        assert store.repaired is not None
        assert store.repaired.content == whole[2][:-1]
        assert path.read_bytes() == b"".join(whole[:2])
        assert store.append(make_record("c"))
    assert path.read_bytes() == b"".join(whole)
    assert scan_records(tmp_path).torn == ()


@pytest.mark.parametrize("cut", [1, 5, 9, 10, 11, 200])
def test_a_file_that_holds_only_a_torn_line_is_repaired(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(GOLDEN_LINE.encode()[:cut])
    with RecordStore(tmp_path) as store:
        assert store.repaired is not None
        assert path.read_bytes() == b""
        assert store.append(make_record())
    assert path.read_text() == GOLDEN_LINE


@pytest.mark.parametrize(
    "end", [b"\0" * 512, GOLDEN_LINE.encode()[:99] + b"\0" * 50, GOLDEN_LINE[:99].encode() + b"\n"]
)
def test_what_a_power_cut_leaves_is_repaired(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(GOLDEN_LINE.encode() + end)
    with RecordStore(tmp_path) as store:
        assert store.repaired is not None
        assert store.repaired.content == end
    assert path.read_text() == GOLDEN_LINE


@pytest.mark.parametrize("line", ["name,value\n", "name,value", '{"a": 1}\n', "[]\n", '"text"\n'])
def test_a_file_of_somebody_else_is_not_cut(tmp_path: Path, line: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(line)
    with pytest.raises(RecordsError, match=r"records\.jsonl:1") as caught:
        RecordStore(tmp_path)
    assert caught.value.hint
    assert path.read_text() == line


def test_garbage_in_the_middle_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text(GOLDEN_LINE + GOLDEN_LINE[:50] + "\n" + GOLDEN_LINE)
    with pytest.raises(RecordsError, match=r"records\.jsonl:2"):
        load_records(tmp_path)
    (tmp_path / "records.jsonl").write_bytes(b"\xff\xfe\n" + GOLDEN_LINE.encode())
    with pytest.raises(RecordsError, match=r"records\.jsonl:1"):
        load_records(tmp_path)


@pytest.mark.parametrize("missing", ["key", "cell", "measurements", "environment"])
def test_a_line_that_lacks_a_block_names_it(tmp_path: Path, missing: str) -> None:
    raw = json.loads(GOLDEN_LINE)
    del raw[missing]
    (tmp_path / "records.jsonl").write_text(json.dumps(raw) + "\n")
    with pytest.raises(RecordsError, match=f"records.jsonl:1.*{missing}"):
        load_records(tmp_path)


@pytest.mark.parametrize(("block", "wrong"), [("measurements", [3]), ("measurements", 3), ("key", 7), ("cell", "x")])
def test_a_line_with_a_block_of_another_type_is_refused(tmp_path: Path, block: str, wrong: object) -> None:
    (tmp_path / "records.jsonl").write_text(json.dumps(json.loads(GOLDEN_LINE) | {block: wrong}) + "\n")
    with pytest.raises(RecordsError, match=r"records\.jsonl:1"):
        load_records(tmp_path)


def test_a_newer_schema_says_so(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text(GOLDEN_LINE.replace('"schema":1', '"schema":2'))
    with pytest.raises(RecordsError, match=r"records\.jsonl:1.*schema 2.*reads schema 1") as caught:
        load_records(tmp_path)
    assert "version" in str(caught.value.hint)
    with pytest.raises(RecordsError, match="schema 2"):
        RecordStore(tmp_path)


# --- reading ---------------------------------------------------------------------------------------------------


def test_all_shards_are_read_in_order_and_the_first_of_a_key_counts(tmp_path: Path) -> None:
    names = ["records.jsonl", "records-2of10.jsonl", "records-10of10.jsonl", "records-1of12.jsonl"]
    for place, name in enumerate(names):
        lines = [record_line(make_record("same", value=place)), record_line(make_record(name))]
        (tmp_path / name).write_text("".join(lines))
    (tmp_path / "records-old.jsonl").write_text("not ours")
    assert [path.name for path in record_files(tmp_path)] == names
    scan = scan_records(tmp_path)
    assert [record.key for record in scan.records] == ["same", *names]
    assert scan.records[0].measurements[0].value == 0
    assert scan.duplicates == 3
    assert [record.key for record in load_records(tmp_path / names[2])] == ["same", names[2]]


def test_places_without_records_say_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="holds no records"):
        load_records(tmp_path)
    with pytest.raises(RecordsError, match="there is no"):
        load_records(tmp_path / "missing")
    with RecordStore(tmp_path / "out") as store:
        store.write_plan({"cells": []})
        assert store.records() == []
    assert load_records(tmp_path / "out") == []


def test_the_plan_is_replaced_whole(tmp_path: Path) -> None:
    with RecordStore(tmp_path) as store:
        store.write_plan({"cells": [{"level": 0.5}], "name": "été"})
        store.write_plan({"cells": ()})
    assert json.loads((tmp_path / "plan.json").read_text()) == {"cells": []}
    assert not list(tmp_path.glob(".plan*"))


def test_keys_in_records_are_those_of_cells(tmp_path: Path) -> None:
    cell = make_cell()
    with RecordStore(tmp_path) as store:
        store.append(ResultRecord(key=cell.key, cell=cell.as_dict()))
        assert cell.key in store
        assert make_cell(level=0.75).key not in store
    (read,) = load_records(tmp_path)
    assert canonical_json(read.cell) == canonical_json(cell.as_dict())
