"""Labels from a CSV file."""

import shutil

import pytest

from harness.errors import DataError
from harness.types import View
from harness_datasets.image_folder import ImageFolder

VIEW = View(resize=12, crop=10)
FILES = ("images/1.png", "images/2.png", "images/3.png", "images/4.png")


@pytest.fixture
def listed(draw):
    """Open a folder of four flat images whose labels.csv has these lines; ``{0}`` and so on stand for the files."""

    def _open(*lines, name="labels.csv", encoding="utf-8", **given):
        root = draw(*FILES)
        (root / name).write_text("\n".join(lines).format(*FILES) + "\n", encoding=encoding)
        return ImageFolder(root=str(root), **given)

    return _open


def labels(dataset, split="all"):
    index = dataset.index(split)
    return {name.removeprefix("images/"): label for name, label in zip(index.ids, index.labels.tolist(), strict=True)}


# --- columns ---------------------------------------------------------------------------------------------------


def test_text_labels_are_sorted(listed):
    data = listed("file,label", "{0},dog", "{1},cat", "{2},dog", "{3},ant")
    assert data.info.classes == ("ant", "cat", "dog")
    assert labels(data) == {"1.png": 2, "2.png": 1, "3.png": 2, "4.png": 0}
    assert data.info.splits == ("all", "support", "query")
    assert data.info.label_space.startswith("classes:")
    batch = data.load("all", [3, 0], VIEW)
    assert batch.ids == ("images/3.png", "images/4.png")
    assert batch.labels.tolist() == [2, 0]


def test_class_indices_are_kept_and_named(listed):
    data = listed("file,class_index,class_name", "{0},4,deer", "{1},0,airplane", "{2},4,deer", "{3},1,automobile")
    assert data.info.classes == ("airplane", "automobile", "2", "3", "deer")
    assert labels(data) == {"1.png": 4, "2.png": 0, "3.png": 4, "4.png": 1}


def test_labels_that_are_all_whole_numbers_are_indices(listed):
    data = listed("file,label", "{0},10", "{1},9", "{2},0", "{3},10")
    assert labels(data) == {"1.png": 10, "2.png": 9, "3.png": 0, "4.png": 10}
    assert len(data.info.classes) == 11


def test_a_subset_of_imagenet_is_read_from_ids_and_the_16_categories_from_names(listed):
    lines = (
        "file,class_index,wnid,label",
        "{0},6,n01498041,dog",
        "{1},987,n12144580,bear",
        "{2},6,n01498041,dog",
        "{3},984,n11879895,truck",
    )
    data = listed(*lines, label_space="imagenet_a")
    assert labels(data) == {"1.png": 0, "2.png": 198, "3.png": 0, "4.png": 196}
    assert (len(data.info.classes), data.info.label_space) == (200, "imagenet_a")
    data = listed(*lines, label_space="imagenet16", label_column="label")
    assert labels(data) == {"1.png": 10, "2.png": 1, "3.png": 10, "4.png": 15}


def test_imagenet_ids(listed):
    data = listed("file,wnid", "{0},n02123045", "{1},n15075141", "{2},n02123045", "{3},n01440764")
    assert data.info.label_space == "imagenet1k"
    assert labels(data) == {"1.png": 281, "2.png": 999, "3.png": 281, "4.png": 0}
    text = listed("file,label", "{0},n02123045", "{1},n15075141", "{2},n02123045", "{3},n01440764")
    assert labels(text) == labels(data)
    assert text.info.label_space == "imagenet1k"
    own = listed("file,wnid", "{0},n02123045", "{1},n15075141", "{2},n02123045", "{3},n01440764", label_space="own")
    assert labels(own) == {"1.png": 1, "2.png": 2, "3.png": 1, "4.png": 0}


def test_a_stated_label_space(listed):
    lines = ("file,class_index", "{0},281", "{1},999", "{2},281", "{3},0")
    data = listed(*lines, label_space="imagenet1k")
    assert data.info.label_space == "imagenet1k"
    assert len(data.info.classes) == 1000
    assert labels(data) == {"1.png": 281, "2.png": 999, "3.png": 281, "4.png": 0}
    assert listed(*lines).info.label_space.startswith("classes:")
    with pytest.raises(DataError, match="class indices reach from 0 to 1000"):
        listed(lines[0], "{0},1000", "{1},0", "{2},1", "{3},2", label_space="imagenet1k")
    # Under another label space the indices are what was meant, not the ids beside them.
    other = listed("file,wnid,class_index", "{0},n02123045,7", "{1},n15075141,1", label_space="cats")
    assert labels(other) == {"1.png": 7, "2.png": 1}


def test_a_named_class_column(listed):
    data = listed("file,shape,texture", "{0},cat,dog", "{1},dog,cat", label_column="texture")
    assert labels(data) == {"1.png": 1, "2.png": 0}
    with pytest.raises(DataError, match="no column 'textures'; the columns are file, shape, texture") as caught:
        listed("file,shape,texture", "{0},cat,dog", label_column="textures")
    assert caught.value.hint == "did you mean texture?"
    with pytest.raises(DataError, match=r"none of the class columns .* the columns are file, shape") as caught:
        listed("file,shape", "{0},cat")
    assert "label_column=NAME" in caught.value.hint
    assert "labels=folders" in caught.value.hint


def test_a_split_column(listed):
    data = listed("file,label,split", "{0},a,train", "{1},b,train", "{2},a,Test", "{3},b,test")
    assert set(data.info.splits) == {"train", "test"}
    assert (data.info.support_split, data.info.query_split, data.info.whole_split) == ("train", "test", "test")
    assert labels(data, "test") == {"3.png": 0, "4.png": 1}
    with pytest.raises(DataError, match="line 3: split 'tset'; expected one of train, val") as caught:
        listed("file,label,split", "{0},a,train", "{1},b,tset")
    assert caught.value.hint == "did you mean test?"


# --- the file --------------------------------------------------------------------------------------------------


def test_the_order_of_the_lines_does_not_matter(listed):
    one = listed("file,label", "{0},dog", "{1},cat", "{2},dog", "{3},ant")
    two = listed("label,file", "ant,{3}", "dog,./{2}", "dog,{0}", "", "cat,{1}")
    assert one.info == two.info
    assert list(one.index("query").ids) == list(two.index("query").ids)


def test_marks_spaces_and_quotes(listed):
    data = listed(" file , label ", '"{0}", "a, b"'.replace('", "', '","'), "{1} , c ", encoding="utf-8-sig")
    assert data.info.classes == ("a, b", "c")


def test_where_the_csv_may_lie(listed, draw, tmp_path):
    data = listed("file,label", "{0},a", "{1},b", name="other.csv", labels="other.csv")
    assert labels(data) == {"1.png": 0, "2.png": 1}
    shutil.move(draw() / "other.csv", tmp_path / "apart.csv")
    apart = ImageFolder(root=str(draw()), labels=str(tmp_path / "apart.csv"))
    assert apart.info == data.info
    with pytest.raises(DataError, match=r"gone\.csv: cannot be read \(No such file"):
        ImageFolder(root=str(draw()), labels="gone.csv")


def test_a_csv_beside_class_folders_wins_unless_told(draw):
    root = draw("cat/1.png", "cat/2.png", "dog/1.png")
    (root / "labels.csv").write_text("file,label\ncat/1.png,tom\ndog/1.png,rex\n")
    assert ImageFolder(root=str(root)).info.classes == ("rex", "tom")
    assert ImageFolder(root=str(root), labels="folders").info.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label", "{0},a"], r"no column 'file'; the columns are path, label"),
        (["file,label"], "lists no images"),
        ([""], "lists no images"),
        (["file,label,label", "{0},a,b"], "two columns of the same name"),
        (["file,label", "{0},a", "{1},b,c"], "line 3: 3 fields, expected 2"),
        (["file,label", "{0},a", "{1},"], "line 3: nothing in column 'label'"),
        (["file,label", "{0},a", "{1},b", "{0},a"], r"line 4: images/1\.png is listed in line 2 already"),
        (["file,label", "{0},a", "images//1.png,b"], "line 3: .* is listed in line 2 already"),
        (["file,label", "{0},a", "gone.png,b"], r"of 2 files these are not in .*: gone\.png \(line 3\)"),
        (["file,label", "{0},a", "../{0},b"], "line 3: .* is no path inside the folder"),
        (["file,label", "{0},a", "/etc/{0},b"], "line 3: .* is no path inside the folder"),
        (["file,label", ",a", "{0},b"], "line 2: '' is no path inside the folder"),
        (["file,label", "{0},a", "images,b"], "line 3: images is no file"),
        (["file,label", "{0},a", "{1},a"], "column 'label': only one class, a"),
        (["file,class_index", "{0},1", "{1},x"], "line 3: class_index must be a whole number from 0, not 'x'"),
        (["file,class_index", "{0},1", "{1},-1"], "line 3: class_index must be a whole number from 0, not '-1'"),
        (["file,class_index,class_name", "{0},1,a", "{1},1,b"], "line 3: class 1 is called 'b', but 'a' in line 2"),
        (["file,wnid", "{0},n02123045", "{1},tabby"], "expected ImageNet ids as class names, found tabby"),
        (
            ["file,wnid,class_index", "{0},n01440764,0", "{1},n02123045,282"],
            "line 3: n02123045 is ImageNet's class 281",
        ),
        (["file,label", '"{0},a'], "not a CSV file"),
    ],
)
def test_what_cannot_be_meant_is_refused(listed, lines, message):
    with pytest.raises(DataError, match=message) as caught:
        listed(*lines)
    assert "labels.csv" in caught.value.message


def test_text_that_is_not_utf8(listed):
    with pytest.raises(DataError, match="not UTF-8 text"):
        listed("file,label", "{0},caf\xe9", "{1},b", encoding="latin-1")


def test_many_missing_files_are_counted(listed):
    with pytest.raises(DataError, match=r"a \(line 2\), b \(line 3\), c \(line 4\) and 1 more"):
        listed("file,label", *(f"{name},{name}" for name in "abcd"))
