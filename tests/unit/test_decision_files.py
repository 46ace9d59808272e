"""Files of decisions: the published format in all its spellings, mistakes with their lines, and writing them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.decision_files import (
    COLUMNS,
    categories,
    cues_of,
    decision_rows,
    find_files,
    read_decisions,
    stimulus_of,
    written_classes,
)
from harness.errors import DataError
from harness.shape_bias import NONE, CueDecisions

HEADER = ",".join(COLUMNS)
LINES = (
    "alexnet,1,1,NaN,bicycle,airplane,0,0001_s5n_dnn_0_airplane_00_airplane1-bicycle2.png",
    "alexnet,1,2,NaN,airplane,airplane,0,0002_s5n_dnn_0_airplane_00_airplane1-chair2.png",
    "alexnet,1,3,NaN,dog,cat,0,0003_s5n_dnn_0_cat_00_cat3-knife1.png",
    "alexnet,1,4,NaN,dog,dog,0,0004_s5n_dnn_0_dog_00_dog1-dog2.png",
)


@pytest.fixture
def write(tmp_path):
    def _write(*lines, name="a.csv", header=HEADER, encoding="utf-8"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*([header] if header else []), *lines, ""]), encoding=encoding)
        return path

    return _write


def only(path, **options):
    (found,) = read_decisions([path], **options)
    return found


def told(observer):
    """(shape, texture, named) by name."""
    found = observer.decisions
    names = [*found.classes, None]
    return [
        tuple(names[number] for number in trial)
        for trial in zip(found.shape.tolist(), found.texture.tolist(), found.named.tolist(), strict=True)
    ]


EXPECTED = [
    ("airplane", "bicycle", "bicycle"),
    ("airplane", "chair", "airplane"),
    ("cat", "knife", "dog"),
    ("dog", "dog", "dog"),
]


# --- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cues"),
    [
        ("airplane1-bicycle2.png", ("airplane", "bicycle")),
        ("0001_s5n_dnn_0_airplane_00_airplane1-bicycle2.png", ("airplane", "bicycle")),
        ("stimuli/airplane/airplane10-cat2.webp", ("airplane", "cat")),
        ("stimuli\\airplane\\airplane10-cat2.JPEG", ("airplane", "cat")),
        (" dog10-dog9 ", ("dog", "dog")),
        ("t-shirt1-traffic light12.png", ("t-shirt", "traffic light")),
        ("class 0.1-class 1.1.png", ("class 0.", "class 1.")),
        ("airplane-bicycle2.png", None),
        ("airplane1.png", None),
        ("airplane1-bicycle.png", None),
        ("1-2.png", None),
        ("", None),
        ("0001_.png", None),
    ],
)
def test_what_a_name_says(name, cues):
    assert cues_of(name) == cues
    assert (stimulus_of(name) is None) == (cues is None)


def test_a_stimulus_is_the_same_whatever_stands_around_its_name():
    names = ("a/dog1-cat10.png", "0007_x_dog_00_dog1-cat10.webp", "dog1-cat10")
    assert {stimulus_of(name) for name in names} == {"dog1-cat10"}


def test_the_categories_are_the_16():
    assert len(categories()) == 16
    assert categories()[0] == "airplane"


# --- reading ---------------------------------------------------------------------------------------------------


def test_a_published_file(write):
    found = only(write(*LINES))
    assert (found.name, found.subjects) == ("alexnet", ("alexnet",))
    assert found.decisions.classes == categories()
    assert told(found) == EXPECTED


def test_spellings_of_one_file(write):
    plain = told(only(write(*LINES)))
    rows = [line.split(",") for line in LINES]
    order = [7, 4, 5, 0]
    names = [COLUMNS[place] for place in order]
    moved = [",".join(row[place] for place in order) for row in rows]
    variants = {
        "bom": write(*LINES, name="bom.csv", encoding="utf-8-sig"),
        "order": write(*moved, name="order.csv", header=",".join(names)),
        "subject": write(*LINES, name="subject.csv", header=HEADER.replace("subj,", "subject,")),
        "case": write(*LINES, name="case.csv", header=HEADER.upper()),
        "extra": write(
            *(f"{i},{line},x" for i, line in enumerate(LINES)), name="extra.csv", header=f",{HEADER},is_correct"
        ),
        "quoted": write(
            *(",".join(f'"{value}"' for value in row) for row in rows),
            name="quoted.csv",
            header=",".join(f'"{name}"' for name in COLUMNS),
        ),
        "spaces": write(*(line.replace(",", " , ") for line in LINES), name="spaces.csv"),
        "blank lines": write("", LINES[0], ",,,,,,,", *LINES[1:], "", name="blank.csv"),
        "windows": write(*(f"{line}\r" for line in LINES), name="windows.csv", header=f"{HEADER}\r"),
    }
    assert {name: told(only(path)) for name, path in variants.items()} == dict.fromkeys(variants, plain)


@pytest.mark.parametrize("answer", ["na", "NA", "NaN", "nan", "", "None"])
def test_no_answer_is_neither_cue(write, answer):
    found = only(write(LINES[0].replace("bicycle,airplane", f"{answer},airplane")))
    assert told(found) == [("airplane", "bicycle", None)]


def test_sessions_and_files_of_one_subject_are_one_observer(write):
    first = write(*LINES[:2], name="s1.csv")
    second = write(*(line.replace("alexnet,1", "alexnet,2") for line in LINES), name="s2.csv")
    (found,) = read_decisions([first, second])
    assert found.files == (first, second)
    assert len(told(found)) == 6
    assert found.decisions.repeated


def test_several_subjects_in_a_file(write):
    path = write(*(line.replace("alexnet", f"subject-0{i}") for i in (1, 2) for line in LINES))
    found = read_decisions([path])
    assert [observer.name for observer in found] == ["subject-01", "subject-02"]
    assert [told(observer) for observer in found] == [EXPECTED, EXPECTED]
    # The same images have the same numbers, so that they can be pooled.
    assert np.array_equal(found[0].decisions.images, found[1].decisions.images)
    (both,) = read_decisions([path], by="file")
    assert (both.name, both.subjects) == ("a", ("subject-01", "subject-02"))
    assert len(told(both)) == 8


def test_files_of_one_subject_apart(write):
    paths = [write(*LINES, name=name) for name in ("x/a.csv", "y/a.csv", "b.csv")]
    with pytest.raises(DataError, match="in session 1, alexnet has decided on airplane1-bicycle2 already"):
        read_decisions(paths)
    names = [observer.name for observer in read_decisions(paths, by="file")]
    assert names == [str(paths[0].with_suffix("")), str(paths[1].with_suffix("")), "b"]


def test_without_a_session_column(write):
    names = ("subj", "object_response", "category", "imagename")
    path = write("net,cat,cat,cat1-dog1.png", "net,dog,cat,cat2-dog1.png", header=",".join(names))
    assert told(only(path)) == [("cat", "dog", "cat"), ("cat", "dog", "dog")]


def test_other_classes_are_those_of_the_images(write):
    lines = ("net,star,star,star1-ring2.png", "net,na,ring,ring1-cross2.png")
    path = write(*lines, header="subj,object_response,category,imagename")
    found = only(path)
    assert found.decisions.classes == ("star", "ring", "cross")
    assert told(found)[1] == ("ring", "cross", None)
    given = only(path, classes=("cross", "drop", "ring", "star"))
    assert given.decisions.classes == ("cross", "drop", "ring", "star")
    assert told(given) == told(found)


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        (
            LINES[0].replace(",airplane,0", ",car,0"),
            "category car, but the shape of airplane1-bicycle2 is airplane",
            "",
        ),
        (LINES[0].replace(",airplane,0", ",,0"), "category empty", ""),
        (
            LINES[0].replace("NaN,bicycle", "NaN,bicycl"),
            "the response is 'bicycl', which is not one of the 16",
            "bicycle",
        ),
        (
            LINES[0].replace("bicycle2", "bike2"),
            "the texture is 'bike', which is not one of the 16 categories",
            "--class",
        ),
        (LINES[0].replace("airplane1-bicycle2.png", "img.png"), "does not say what it shows", "airplane1-bicycle2.png"),
        (LINES[1], r"in session 1, alexnet has decided on airplane1-chair2 already, in line 2", "--by file"),
        (LINES[0] + ",more", "9 fields, expected 8", ""),
        ("alexnet,1", "2 fields, expected 8", ""),
        (LINES[0].replace("alexnet", ""), "nothing says whose decision this is", "subj"),
    ],
)
def test_mistakes_are_named_with_file_and_line(write, line, said, hint):
    path = write(LINES[1], line)
    with pytest.raises(DataError, match=said) as caught:
        read_decisions([path])
    assert caught.value.message.startswith(f"{path}, line 3: ")
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (HEADER.encode(), "holds no decisions"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "not UTF-8 text"),
        (b'subj,"object', "not a CSV file"),
        (b"subj,session\nnet,1\n", "no columns object_response, category, imagename; the columns are subj, session"),
        (b"object_response,category,imagename\na,b,c\n", "no column subj; "),
        (HEADER.replace(",", ";").encode(), "no columns subj, object_response, category, imagename"),
        (f"{HEADER},Category".encode(), "two columns are called category"),
    ],
)
def test_files_that_are_none(tmp_path, text, said):
    path = tmp_path / "bad.csv"
    path.write_bytes(text)
    with pytest.raises(DataError, match=said) as caught:
        read_decisions([path])
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_mixture_of_known_and_unknown_classes_is_a_mistake(write):
    lines = ("net,cat,cat,cat1-ring2.png",)
    path = write(*lines, header="subj,object_response,category,imagename")
    with pytest.raises(DataError, match="the texture is 'ring'"):
        read_decisions([path])
    assert told(only(path, classes=("cat", "ring"))) == [("cat", "ring", "cat")]
    with pytest.raises(DataError, match="the texture is 'ring', which is not one of the 2 classes"):
        read_decisions([path], classes=("cat", "dog"))


# --- folders ---------------------------------------------------------------------------------------------------


def test_of_a_folder_all_files_of_decisions(write, tmp_path):
    paths = [write(*LINES, name=name) for name in ("b.csv", "deep/er/a.CSV")]
    other = write("1,2", name="numbers.csv", header="x,y")
    write(*LINES, name=".hidden.csv")
    write(*LINES, name="notes.txt")
    assert find_files([tmp_path]) == (paths, [other])
    assert find_files([paths[1], tmp_path])[0] == [paths[1], paths[0]]


def test_folders_and_paths_without_decisions(write, tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        find_files([tmp_path / "nowhere.csv"])
    with pytest.raises(DataError, match="there are no CSV files"):
        find_files([tmp_path])
    write("1,2", name="numbers.csv", header="x,y")
    with pytest.raises(DataError, match="none of 1 CSV files holds decisions"):
        find_files([tmp_path])


# --- writing ---------------------------------------------------------------------------------------------------


def saved(folder: Path, rows) -> Path:
    path = folder / "written.csv"
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    path.write_text(text.getvalue())
    return path


def random_decisions(classes, n, seed):
    drawn = np.random.default_rng(seed)
    shape, texture, named = (drawn.integers(NONE, len(classes), n) for _ in range(3))
    return CueDecisions(classes=classes, shape=shape, texture=texture, named=named)


AWKWARD = ("class 0", "class 1", "traffic_light", "t-shirt", "3-d ring 2-b", "a/b", "star in dots")


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 80), own=st.booleans())
def test_what_is_written_reads_back(tmp_path_factory, seed, n, own):
    classes = AWKWARD if own else categories()
    found = random_decisions(classes, n, seed)
    rows = decision_rows("vit, patchdrop@0.5", found, [f"split/{i:06d}" for i in range(n)])
    both = (found.shape != NONE) & (found.texture != NONE)
    assert len(rows) == both.sum()
    if not rows:
        return
    again = only(saved(tmp_path_factory.mktemp("round"), rows), classes=written_classes(classes))
    assert again.name == "vit, patchdrop@0.5"
    assert np.array_equal(again.decisions.shape, found.shape[both])
    assert np.array_equal(again.decisions.texture, found.texture[both])
    assert np.array_equal(again.decisions.named, found.named[both])


def test_stimuli_keep_their_names_behind_the_published_prefix():
    found = CueDecisions(
        classes=categories(),
        shape=np.array([0, 7]),
        texture=np.array([2, 11]),
        named=np.array([2, NONE]),
    )
    rows = decision_rows("net", found, ["airplane/airplane1-bicycle2.png", "x_cat10-elephant3.webp"])
    assert rows == [
        ["net", 1, 1, "NaN", "bicycle", "airplane", 0, "0001_s5n_dnn_0_airplane_00_airplane1-bicycle2.png"],
        ["net", 1, 2, "NaN", "na", "cat", 0, "0002_s5n_dnn_0_cat_00_cat10-elephant3.webp"],
    ]


def test_names_that_contradict_or_come_twice_are_numbered():
    found = CueDecisions(classes=categories(), shape=np.array([7, 7]), texture=np.array([2, 2]), named=np.array([7, 2]))
    for ids in (["a/cat1-bicycle1.png", "b/cat1-bicycle1.png"], ["cat1-bicycle1.png", "cat1-dog1.png"]):
        images = [str(row[-1]) for row in decision_rows("net", found, ids)]
        assert [stimulus_of(name) for name in images] == ["cat1-bicycle1", "cat2-bicycle2"]


def test_classes_that_would_be_written_alike():
    with pytest.raises(DataError, match="'traffic_light', 'traffic light'"):
        written_classes(["cat", "traffic_light", "traffic light"])
