"""ShapeNet cars in three layouts, made small, and how each can be wrong."""

from __future__ import annotations

import json
import os
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from shalabench.api import Camera, DataError, DataPaths
from shalabench.datasets.shapenet_cars import ShapeNetCars
from shalabench.datasets.sources.readers import read_arrays
from shalabench.datasets.sources.rig import ring

CAR = "02958343"
UPRIGHT = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # y up to z up


def pose_of(camera: Camera) -> np.ndarray:
    """World to camera, [4, 4]."""
    top = np.column_stack([np.array(camera.rotation), np.array(camera.translation)])
    return np.vstack([top, [0, 0, 0, 1]])


def paint(file, value: int, mode: str = "RGB", side: int = 16) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, len(mode)), 255, np.uint8)
    pixels[4:12, 4:12, :3] = value
    if mode == "RGBA":
        pixels[..., 3] = 0
        pixels[4:12, 4:12, 3] = 255
    Image.fromarray(pixels, mode).save(file)


def make_srn(root) -> None:
    for split in ("train", "val", "test"):
        car = root / f"cars_{split}" / f"{split}0"
        for i in range(12):
            camera = Camera.orbit(i * 30.0, 30.0, 1.3, 1.0254)
            paint(car / "rgb" / f"{i:06}.png", 10 * i)
            (car / "pose").mkdir(exist_ok=True)
            numbers = np.linalg.inv(pose_of(camera)).ravel()
            (car / "pose" / f"{i:06}.txt").write_text(" ".join(f"{x:.9f}" for x in numbers))
        (car / "intrinsics.txt").write_text("525.0 256.0 256.0 0.\n0. 0. 0.\n1.\n512 512\n")


def make_nmr(root) -> None:
    for split in ("train", "val", "test"):
        folder = root / "NMR_Dataset" / CAR
        arrays = {}
        for i in range(24):
            camera = Camera.orbit(i * 15.0, 30.0, 2.732, 0.9)
            paint(folder / f"{split}0" / "image" / f"{i:04}.png", 10 * i)
            matrix = pose_of(camera)
            matrix[:3, :3] = matrix[:3, :3] @ UPRIGHT
            arrays[f"world_mat_{i}"] = matrix
            arrays[f"camera_mat_{i}"] = np.diag([1.8, 1.8, 1.0])
        np.savez(folder / f"{split}0" / "cameras.npz", **arrays)
        (folder / f"softras_{split}.lst").write_text(f"{split}0\n")


def make_sync(root) -> None:
    for n in range(10):
        for i in range(16):
            paint(root / "target" / f"car{n}" / f"{i:03}.png", 10 * i, "RGBA")


MAKERS = {"srn": make_srn, "nmr": make_nmr, "syncdreamer": make_sync}


def read(root, resolution: int = 16) -> ShapeNetCars:
    dataset = ShapeNetCars(ShapeNetCars.Config(resolution=resolution))
    dataset.prepare(DataPaths(root, root / "cache"))
    return dataset


@pytest.mark.parametrize("layout", MAKERS)
def test_every_layout_gives_sixteen_views_with_cameras(tmp_path, layout):
    MAKERS[layout](tmp_path)
    dataset = read(tmp_path)
    spec = dataset.spec
    assert spec.names == tuple(f"v{i:02}" for i in range(16))
    assert all(modality.camera is not None for modality in spec.modalities)
    split = dataset.split("train")
    alpha = split.facts["alpha"]
    assert alpha.shape == (spec.sizes["train"], 16, 16, 16)
    assert (alpha[..., 4:12, 4:12] == 255).all()
    assert alpha[..., 0, 0].max() == 0
    assert (split.tensors["v00"][:, :, 0, 0] == 255).all()  # white where nothing is
    assert (split.tensors["v00"][:, :, 5, 5] == 0).all()
    assert layout in spec.source


@pytest.mark.parametrize(
    ("layout", "exact", "taken"),
    [  # picture i has the grey level 10 i, so that v02's tells which one it is
        ("srn", {0, 4, 8, 12}, {20, 10}),
        ("nmr", set(range(0, 16, 2)), {30}),
        ("syncdreamer", set(range(16)), {20}),
    ],
)
def test_the_record_says_which_views_are_exact(tmp_path, layout, exact, taken):
    MAKERS[layout](tmp_path)
    dataset = read(tmp_path)
    assert {i for i, shown in enumerate(dataset.shown) if shown.exact} == exact
    assert int(dataset.split("test").tensors["v02"][0, 0, 5, 5]) in taken
    source = dataset.spec.source
    assert ("all 16 views exact" in source) == (len(exact) == 16)
    assert ("approximate" in source) == (len(exact) < 16)


def test_cameras_keep_the_distance_and_focal_length_of_the_renderings(tmp_path):
    make_srn(tmp_path)
    camera = read(tmp_path).spec["v00"].camera
    assert np.linalg.norm(camera.position) == pytest.approx(1.3, abs=1e-6)
    assert camera.focal[0] == pytest.approx(525 / 512)


def test_no_layout_lists_the_layouts_with_example_paths(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    for example in ("cars_train/<id>/", f"NMR_Dataset/{CAR}/<id>/", "target/<uid>/"):
        assert example in str(caught.value)


def ruin(layout: str, file: str, content: str | None):
    """A layout one file of which is gone, or says something else."""

    def make(root):
        MAKERS[layout](root)
        if content is None:
            (root / file).unlink()
        else:
            (root / file).write_text(content)

    return pytest.param(
        make, file.split("/")[-1], id=f"{layout}-{file.split('/')[-1]}-{content!s:.9}"
    )


def spoil(layout: str, file: str, change, what: str):
    """A layout one file of which is rewritten."""

    def make(root):
        MAKERS[layout](root)
        change(root / file)

    return pytest.param(make, file.split("/")[-1], id=f"{layout}-{what}")


def put(name: str, array):
    """Put an array into an archive."""

    def change(file):
        with np.load(file) as arrays:
            held = dict(arrays)
        np.savez(file, **held | {name: array})

    return change


def damage(file) -> None:
    content = bytearray(file.read_bytes())
    content[200] ^= 255  # within the first array
    file.write_bytes(content)


CAMERAS = f"NMR_Dataset/{CAR}/train0/cameras.npz"
K = np.array([[280.0, 0, 128], [0, 280.0, 128], [0, 0, 1]])


def rig_of(k, poses):
    """Write the cameras that lie beside SyncDreamer's pictures."""
    held = [k, np.zeros(16), np.zeros(16), np.zeros(16), poses]
    return lambda file: file.write_bytes(pickle.dumps(held))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        spoil("nmr", CAMERAS, put("world_mat_3", np.eye(2)), "pose"),
        spoil("nmr", CAMERAS, put("camera_mat_3", np.diag([90.0, 90, 1])), "intrinsics"),
        spoil("nmr", CAMERAS, put("world_mat_3", np.array([{}], object)), "objects"),
        spoil("nmr", CAMERAS, lambda file: file.write_bytes(file.read_bytes()[:400]), "cut"),
        spoil("nmr", CAMERAS, damage, "damaged"),
        spoil("syncdreamer", "camera-16.pkl", rig_of(K, np.zeros((16, 2, 4))), "pose"),
        spoil("syncdreamer", "camera-16.pkl", rig_of(K, np.eye(4)[None]), "few"),
        spoil("syncdreamer", "camera-16.pkl", rig_of(K[:2], np.zeros((16, 3, 4))), "intrinsics"),
        ruin("srn", "cars_test/test0/intrinsics.txt", "525 256 256 0\n0 0 0\n1\n0 0"),
        ruin("srn", "cars_test/test0/intrinsics.txt", "525 256 128 0\n0 0 0\n1\n256 512"),
        ruin("syncdreamer", "target/car3/007.png", None),
        ruin("nmr", f"NMR_Dataset/{CAR}/val0/image/0011.png", None),
        ruin("nmr", f"NMR_Dataset/{CAR}/softras_test.lst", None),
        ruin("nmr", f"NMR_Dataset/{CAR}/train0/cameras.npz", "no archive"),
        ruin("srn", "cars_train/train0/pose/000003.txt", "1 2 3"),
        ruin("srn", "cars_train/train0/pose/000003.txt", "0 " * 16),
        ruin("srn", "cars_test/test0/intrinsics.txt", "131 64 64 0\n0 0 0\n1\n512 512"),
        ruin("srn", "cars_test/test0/intrinsics.txt", "nothing"),
        ruin("syncdreamer", "target/car0/002.png", "no picture"),
        ruin("syncdreamer", "split.json", json.dumps({"train": ["car0"]})),
    ],
)
def test_a_wrong_file_is_named_with_the_reason(tmp_path, make, named):
    make(tmp_path)
    with pytest.raises(DataError, match=re.escape(named)):
        read(tmp_path)


@pytest.mark.parametrize("layout", ["nmr", "syncdreamer"])
def test_no_car_is_in_two_splits(tmp_path, layout):
    MAKERS[layout](tmp_path)
    if layout == "nmr":
        (tmp_path / "NMR_Dataset" / CAR / "softras_test.lst").write_text("test0\ntrain0\n")
    else:
        listed = {"train": ["car0"], "validation": ["car1"], "test": ["car2", "car0"]}
        (tmp_path / "split.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match=r"lists the car (train0|car0) 2 times"):
        read(tmp_path)


def test_a_split_without_a_car_is_named(tmp_path):
    make_nmr(tmp_path)
    (tmp_path / "NMR_Dataset" / CAR / "softras_val.lst").write_text("")
    with pytest.raises(DataError, match="no car for validation"):
        read(tmp_path)


def test_a_view_without_its_pose_is_named(tmp_path):
    make_srn(tmp_path)
    (tmp_path / "cars_val" / "val0" / "pose" / "000005.txt").unlink()
    with pytest.raises(DataError, match="000005"):
        read(tmp_path)


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", ["uid_set.pkl", "camera-16.pkl"])
def test_a_hostile_pickle_is_refused_and_does_nothing(tmp_path, name):
    make_sync(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Hostile(tmp_path / "made")))
    with pytest.raises(DataError, match=rf"{name}.*mkdir"):
        read(tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickled_arrays_are_read(tmp_path, protocol):
    held = [np.arange(6.0).reshape(2, 3), {"names": ["a", "b"]}, np.float64(2.5), (1, None)]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(held, protocol))
    array, names, number, rest = read_arrays(tmp_path / "a.pkl")
    assert np.array_equal(array, held[0])
    assert (names, number, rest) == tuple(held[1:])


def test_the_cameras_beside_the_pictures_are_read_and_must_fit(tmp_path):
    make_sync(tmp_path)
    poses = np.stack([pose_of(camera)[:3] for camera in ring()])
    for centre, fits in ((128.0, True), (64.0, False)):
        k = np.array([[320.0, 0, centre], [0, 320.0, centre], [0, 0, 1]])
        listed = [k, np.zeros(16), np.zeros(16), np.zeros(16), poses]
        (tmp_path / "camera-16.pkl").write_bytes(pickle.dumps(listed))
        if fits:
            dataset = read(tmp_path)
            assert all(shown.exact for shown in dataset.shown)
            assert dataset.spec["v03"].camera.focal[0] == 320 / 256
        else:
            with pytest.raises(DataError, match=r"camera-16.pkl.*do not fit"):
                read(tmp_path)


def test_nothing_falls_back_to_drawn_cars(tmp_path):
    with pytest.raises(DataError, match="No renderings of ShapeNet cars"):
        read(tmp_path)
    assert not (tmp_path / "cache").exists()


def test_a_silhouette_that_changes_is_read_anew(tmp_path):
    make_nmr(tmp_path)
    masks = tmp_path / "NMR_Dataset" / CAR / "test0" / "mask"
    covered = []
    masks.mkdir()
    for value in (0, 255):
        for i in range(24):
            Image.new("L", (16, 16), value).save(masks / f"{i:04}.png")
        os.utime(masks / "0000.png", ns=(0, value))  # though the size be the same
        covered.append(int(read(tmp_path).split("test").facts["alpha"].sum()))
    assert covered[0] != covered[1]


def cars_of(root):
    """The cameras of the views, and the test pictures of one."""
    dataset = read(root)
    return [m.camera for m in dataset.spec.modalities], dataset.split("test").tensors["v02"]


@pytest.mark.parametrize("ending", ["", "0\n", "1\n", "   \n", "\r\n"])
def test_the_fifth_line_of_intrinsics_says_which_way_poses_go(tmp_path, ending):
    make_srn(tmp_path / "plain")
    make_srn(tmp_path / "other")
    for file in (tmp_path / "other").rglob("intrinsics.txt"):
        text = file.read_text().replace("512 512", "512.0 512.0") + ending
        file.write_bytes(text.replace("\n", "\r\n" if "\r" in ending else "\n").encode())
    for file in (tmp_path / "other").rglob("pose/*.txt") if "1" in ending else ():
        np.savetxt(file, np.linalg.inv(np.loadtxt(file).reshape(4, 4)))
    plain, other = (cars_of(tmp_path / name) for name in ("plain", "other"))
    assert (plain[1] == other[1]).all()
    for one, two in zip(plain[0], other[0], strict=True):
        assert one.focal == two.focal
        assert one.position == pytest.approx(two.position, abs=1e-6)


@pytest.mark.parametrize("fifth", ["2", "yes", "1.0", "0 1"])
def test_another_fifth_line_is_refused(tmp_path, fifth):
    make_srn(tmp_path)
    with (tmp_path / "cars_val" / "val0" / "intrinsics.txt").open("a") as file:
        file.write(fifth)
    with pytest.raises(DataError, match=rf"fifth line is '{re.escape(fifth)}'"):
        read(tmp_path)


@pytest.mark.parametrize("layout", MAKERS)
def test_endings_in_capitals_are_read(tmp_path, layout):
    MAKERS[layout](tmp_path)
    before = read(tmp_path).split("test").tensors["v02"]
    for file in list(tmp_path.rglob("*.png")):
        file.rename(file.with_suffix(".PNG"))
    assert (read(tmp_path).split("test").tensors["v02"] == before).all()


def test_lists_of_cars_are_read_with_a_byte_order_mark_and_blanks(tmp_path):
    make_nmr(tmp_path)
    before = read(tmp_path).spec.fingerprint
    for file in tmp_path.rglob("*.lst"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_text().strip().encode() + b" \r\n\r\n")
    assert read(tmp_path).spec.fingerprint == before


def masks_of(root, value: int) -> None:
    """A mask of the car's square for each picture of the test car, of 0 and a value."""
    (root / "NMR_Dataset" / CAR / "test0" / "mask").mkdir()
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = value
    for i in range(24):
        Image.fromarray(mask).save(root / "NMR_Dataset" / CAR / "test0" / "mask" / f"{i:04}.png")


def test_pictures_as_published_deviate_in_nothing(tmp_path):
    make_nmr(tmp_path)
    masks_of(tmp_path, 255)
    assert read(tmp_path).spec.deviation == ""


def test_enlarged_pictures_are_counted_and_named(tmp_path):
    make_sync(tmp_path)
    spec = read(tmp_path, 32).spec
    assert "enlarged: 160 (target/car" in spec.deviation
    assert spec.deviation in spec.source
    assert read(tmp_path, 32).spec.deviation == spec.deviation  # also from the cache


@pytest.mark.parametrize(
    ("value", "covered", "words"),
    [(1, 255, "taken for 0 and 255: 16"), (100, 100, "no pixel is all car: 16")],
)
def test_masks_of_another_range_are_reported(tmp_path, value, covered, words):
    make_nmr(tmp_path)
    masks_of(tmp_path, value)
    dataset = read(tmp_path)
    assert words in dataset.spec.deviation
    alpha = dataset.split("test").facts["alpha"]
    assert (alpha[..., 4:12, 4:12] == covered).all()


def test_pictures_without_a_white_background_or_an_object_are_named(tmp_path):
    make_sync(tmp_path)
    car = tmp_path / "target" / "car3"
    Image.new("RGB", (16, 16), (0, 0, 0)).save(car / "004.png")
    Image.new("RGBA", (16, 16), (9, 9, 9, 0)).save(car / "005.png")
    Image.new("RGB", (16, 16), (255, 255, 255)).save(car / "006.png")
    deviation = read(tmp_path).spec.deviation
    assert re.search(r"not white.*: 1 \(target/car3/004\.png\)", deviation)
    assert re.search(r"no object: 2 \(target/car3/005\.png, target/car3/006\.png\)", deviation)
