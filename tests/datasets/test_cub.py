"""CUB from its original layout: split by photo, words of training captions only, and bad input."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from shalabench.api import END, PAD, DataError, DataPaths
from shalabench.datasets import cub
from shalabench.datasets.cub import CUB
from shalabench.datasets.sources.captions import UNKNOWN, encode, learn_vocabulary, read_captions
from shalabench.datasets.sources.readers import unpack

SPECIES = ("001.Auk", "002.Booby")


def write_cub(root, per_species=8):
    """A CUB of flat pictures: photo i is of one grey, and its captions have the word "photoi"."""
    photos, texts = root / "CUB_200_2011", root / "text_c10"
    lists = {"images": [], "train_test_split": [], "bounding_boxes": []}
    for s, species in enumerate(SPECIES):
        (photos / "images" / species).mkdir(parents=True)
        (texts / species).mkdir(parents=True)
        for k in range(per_species):
            i = s * per_species + k + 1
            Image.new("RGB", (90, 70), (10 * i,) * 3).save(photos / "images" / species / f"{i}.png")
            lines = [f"This bird's photo{i} number{j}, a small one." for j in range(10)]
            (texts / species / f"{i}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            lists["images"].append(f"{i} {species}/{i}.png")
            lists["train_test_split"].append(f"{i} {int(k < per_species // 2)}")
            lists["bounding_boxes"].append(f"{i} 10.0 10.0 40.0 40.0")
    for name, lines in lists.items():
        (photos / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def root(tmp_path):
    return write_cub(tmp_path / "data")


def prepared(root, **settings):
    dataset = CUB(CUB.Config(**settings))
    dataset.prepare(DataPaths(root, root.parent / "cache"))
    return dataset


def photos_of(dataset, split):
    """The grey of every tuple's picture, and the number of the photo that its caption names."""
    views = dataset.split(split).batch(torch.arange(len(dataset.split(split)))).views
    greys = (views["image"].mean((1, 2, 3)) * 25.5).round().long().tolist()
    texts = [dataset.spec["caption"].text(x) for x in views["caption"].tolist()]
    return greys, texts


def test_a_tuple_is_a_photo_and_one_of_its_ten_captions(root):
    dataset = prepared(root, occurrences=1)
    assert dataset.spec.sizes == {"train": 70, "validation": 10, "test": 80}
    assert dataset.spec.distinct == {"train": 7, "validation": 1, "test": 8}
    greys, texts = photos_of(dataset, "train")
    for grey, text in zip(greys, texts, strict=True):
        assert f" photo{grey} " in text
    assert "the effective sample is 8 test photos" in dataset.spec.source
    assert dataset.spec.deviation == "16 of the 11,788 photos"


def test_other_test_photos_than_the_published_are_a_deviation(root, monkeypatch):
    monkeypatch.setattr(cub, "_ALL", 16)
    assert prepared(root).spec.deviation == "8 test photos, and 5,794 published"
    monkeypatch.setattr(cub, "_TESTS", {cub._BY_PHOTO: 8})
    assert prepared(root).spec.deviation == ""


def test_a_changed_byte_of_the_cache_is_noticed_and_mended_by_deleting(root):
    first = prepared(root).spec
    (file,) = (root.parent / "cache").glob("*.npy")
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"SHA-256.*Delete {file}"):
        prepared(root)
    file.unlink()
    assert prepared(root).spec.fingerprint == first.fingerprint


def test_captions_of_one_photo_never_straddle_a_split(root):
    dataset = prepared(root, validation=0.3)
    greys = {split: set(photos_of(dataset, split)[0]) for split in dataset.spec.sizes}
    assert set.union(*greys.values()) == set(range(1, 17))
    assert sum(len(own) for own in greys.values()) == 16


def test_the_vocabulary_is_of_training_captions_only(root):
    dataset = prepared(root, occurrences=1)
    words = set(dataset.spec["caption"].vocabulary)
    for split, expected in (("train", True), ("validation", False), ("test", False)):
        for grey in set(photos_of(dataset, split)[0]):
            assert (f"photo{grey}" in words) == expected
    assert any(UNKNOWN in text.split() for text in photos_of(dataset, "test")[1])


def test_rare_words_are_unknown():
    captions = [["a", "red", "bird"], ["a", "bird"], ["a", "blue", "bird"]]
    assert learn_vocabulary(captions, 2) == (PAD, END, UNKNOWN, "a", "bird")
    tokens = encode([["a", "red", "bird"]], learn_vocabulary(captions, 2), 6)
    assert tokens.tolist() == [[3, 2, 4, 1, 0, 0]]


def test_long_captions_are_cut_and_still_end():
    words = ["a"] * 40
    tokens = encode([words], (PAD, END, UNKNOWN, "a"), 32)
    assert tokens.tolist() == [[3] * 31 + [1]]


def test_reed_s_test_species_are_never_trained_on(root):
    (root / "testclasses.txt").write_text(f"{SPECIES[1]}\n", encoding="utf-8")
    dataset = prepared(root)
    assert min(photos_of(dataset, "test")[0]) == 9
    assert max(photos_of(dataset, "train")[0]) == 8
    assert "other species" in dataset.spec.source
    again = prepared(root, split="photos")
    assert again.spec.fingerprint != dataset.spec.fingerprint


def test_a_part_of_cub_without_training_species_is_split_by_photo(root):
    (root / "testclasses.txt").write_text("\n".join(SPECIES), encoding="utf-8")
    assert "by photo" in prepared(root).spec.source
    with pytest.raises(DataError, match="leaves 0 photos for training"):
        prepared(root, split="species")


def test_the_box_can_be_what_is_shown(root):
    file = root / "CUB_200_2011" / "images" / SPECIES[0] / "1.png"
    pixels = np.full((70, 90, 3), 200, np.uint8)
    pixels[10:50, 10:50] = 10  # the box
    Image.fromarray(pixels).save(file)
    dark = (prepared(root, crop=crop) for crop in ("box", "none"))
    boxed, whole = (d.split("train").tensors["image"].float().mean((1, 2, 3)).min() for d in dark)
    assert boxed == 10
    assert whole == 20  # the second photo: most of the first is bright


def test_fewer_captions_make_fewer_tuples(root):
    dataset = prepared(root, captions=3)
    assert dataset.spec.sizes["test"] == 24
    assert dataset.spec.distinct["test"] == 8


def test_captions_are_read_as_lower_case_words_and_marks(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("This bird\u2019s WING-bars, caf\u00e9 & \ufffd\ufffd2!\n", encoding="utf-8")
    assert read_captions(file, 1) == [
        ["this", "bird's", "wing", "-", "bars", ",", "cafe", "&", "2", "!"]
    ]


def caption_file(root):
    return root / "text_c10" / SPECIES[0] / "3.txt"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo\n" + b"\xff\xfe bird\n" * 8, r"3\.txt, line 3: the byte 0xff is no UTF-8"),
        (b"a bird\n" * 9, r"3\.txt, line 10: .* after 9 captions, and 10 were expected"),
        (b"", r"3\.txt, line 1: .* after 0 captions, and 10 were expected"),
        (b"a bird\n" * 4 + b"\n" + b"a bird\n" * 5, r"3\.txt, line 5: the line is empty"),
        (b"a bird\n" * 6 + "a \u9ce5\n".encode() + b"a bird\n" * 3, r"line 7: .*U\+9CE5.*letters"),
        (b"a bird\n" * 9 + b"a\x07bird\n", r"line 10: .*U\+0007"),
    ],
)
def test_a_bad_caption_file_is_named_with_its_line(root, content, message):
    caption_file(root).write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepared(root)


def test_a_missing_caption_file_is_named(root):
    caption_file(root).unlink()
    with pytest.raises(DataError, match=r"captions .*3\.txt cannot be read"):
        prepared(root)


def test_a_photo_that_does_not_open_is_named(root):
    (root / "CUB_200_2011" / "images" / SPECIES[0] / "2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"2\.png does not open"):
        prepared(root)


def test_a_missing_photo_is_named(root):
    (root / "CUB_200_2011" / "images" / SPECIES[0] / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png is missing, and images\.txt names it"):
        prepared(root)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("images", "x 001.Auk/1.png", "line 1: .* a photo's id and 1 more"),
        ("images", "1 ../../secret.png", "leads out of the folder"),
        ("bounding_boxes", "1 2.0", "a photo's id and 4 more"),
        ("bounding_boxes", "1 a b c d", "could not convert"),
        ("bounding_boxes", "1 1 1 nan 1", "not finite"),
        ("train_test_split", "1 2", "photo 1 has '2'"),
        ("train_test_split", "2 1", "photo 2 is listed twice"),
        ("images", "\u00b2 001.Auk/1.png", "line 1"),
        ("train_test_split", "99 1", "Photo 1 .* not in train_test_split.txt"),
    ],
)
def test_a_bad_list_is_named(root, name, line, message):
    file = root / "CUB_200_2011" / f"{name}.txt"
    rest = file.read_text(encoding="utf-8").splitlines()[1:]
    file.write_text("\n".join([line, *rest]), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        prepared(root, crop="box")
    if name == "bounding_boxes":
        assert prepared(root).spec.sizes["test"] == 80  # no box is used


def test_boxes_are_not_needed_where_none_is_used(root):
    before = prepared(root).spec.fingerprint
    (root / "CUB_200_2011" / "bounding_boxes.txt").unlink()
    assert prepared(root).spec.fingerprint == before
    with pytest.raises(DataError, match="bounding_boxes"):
        prepared(root, crop="box")


def test_attngan_s_layout_is_read(root):
    before = prepared(root).spec.fingerprint
    (root / "birds").mkdir()
    (root / "CUB_200_2011").rename(root / "birds" / "CUB_200_2011")
    (root / "text_c10").rename(root / "birds" / "text")
    assert prepared(root).spec.fingerprint == before


@pytest.mark.parametrize("line", ["\ufeff{}", " {}\t", "{}\r\n", "\r{}\r"])
def test_a_list_of_species_is_stripped_and_has_no_byte_order_mark(root, line):
    (root / "testclasses.txt").write_bytes(line.format(SPECIES[1]).encode())
    dataset = prepared(root)
    assert set(photos_of(dataset, "test")[0]) == set(range(9, 17))
    assert dataset.spec.deviation == "16 of the 11,788 photos"


def test_a_species_that_no_photo_has_is_reported_for_it_decides_the_split(root):
    file = root / "testclasses.txt"
    file.write_text(f"{SPECIES[1]}\n001.Aukk\n", encoding="utf-8")
    deviation = prepared(root).spec.deviation
    for word in ("1 of 2 names", "'001.Aukk' (nearest: '001.Auk')"):
        assert word in deviation
    file.write_text("002.Boobie\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"0 for the test.*'002\.Boobie' \(nearest: '002\.Booby'\)"):
        prepared(root)


@pytest.mark.parametrize(
    "mark",
    [" ", "\u2028", "\u2029", "\x85", "\x0c", "\x0b", "\x1c", "\x1d", "\x1e", "\xa0", "\ufeff"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_captions_are_split_at_line_ends_only(tmp_path, mark, end):
    lines = [f"caption {i} of a bird" for i in range(10)]
    lines[2] = f"this bird is red{mark}with a black crown"
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbf" + (end.join(lines) + end).encode())
    read = [" ".join(words) for words in read_captions(file, 10)]
    lines[2] = "this bird is red with a black crown"
    assert read == lines


def test_what_is_missing_is_reported_with_the_next_step(tmp_path):
    with pytest.raises(DataError, match="prepare cub"):
        prepared(tmp_path / "nothing")


def archive_of(file, name, *, link=""):
    with tarfile.open(file, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        if link:
            member.type, member.linkname = tarfile.SYMTYPE, link
            archive.addfile(member)
        else:
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
    return file


@pytest.mark.parametrize(
    ("name", "link"), [("../evil", ""), ("a/../../evil", ""), ("link", "../../evil")]
)
def test_an_archive_is_unpacked_along_no_path_out_of_its_folder(tmp_path, name, link):
    archive = archive_of(tmp_path / "a.tgz", name, link=link)
    folder = tmp_path / "inside" / "folder"
    folder.parent.mkdir()
    with pytest.raises(DataError, match=r"a\.tgz"):
        unpack(archive, folder)
    assert not list(tmp_path.rglob("evil"))
    assert not folder.exists()


def test_a_damaged_archive_leaves_nothing_behind(tmp_path):
    whole = archive_of(tmp_path / "a.tgz", "a/b").read_bytes()
    (tmp_path / "a.tgz").write_bytes(whole[:30])
    with pytest.raises(DataError, match=r"a\.tgz"):
        unpack(tmp_path / "a.tgz", tmp_path / "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["a.tgz"]


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="needs Python 3.11.4")
def test_an_archive_is_unpacked_whole(tmp_path):
    unpack(archive_of(tmp_path / "a.tgz", "a/b"), tmp_path / "folder")
    assert (tmp_path / "folder" / "a" / "b").read_bytes() == b"evil"


def test_a_python_that_cannot_check_a_tar_file_unpacks_none(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    with pytest.raises(DataError, match=r"3\.11\.4"):
        unpack(archive_of(tmp_path / "a.tgz", "a/b"), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
