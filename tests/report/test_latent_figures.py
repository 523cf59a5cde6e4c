"""Figures of latents: from weights, the same bytes each time, and a way out where none are."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.records import write_run

from bench import main
from shalabench.api import BenchError, DataPaths
from shalabench.config.plan import plan
from shalabench.execute.campaign import Options, run_campaign
from shalabench.execute.progress import Reporter
from shalabench.execute.trained import load_trained, load_with_classifiers
from shalabench.records.store import RunFolder, Store
from shalabench.report import latents
from shalabench.report.latents import write_latents

DIGITS = ("data.digits=[0,1]", "model.latent_dim=2")
SIZES = ("data.train=200", "data.validation=50", "data.test=100", "train.precision=float32")
WAY = ["t = T", "t = 0.6 T", "t = 0.4 T", "t = 0.2 T", "t = 0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with runs of five kinds of latent, trained for a moment."""
    folder = tmp_path_factory.mktemp("latents")
    chosen = Options(
        folder / "store", DataPaths(folder, folder), ("samples",), device="cpu", threads=1
    )
    runs = plan(("shala",), "polydigits", "smoke", (0,), DIGITS + SIZES)
    for models, *overrides in (
        ("shala", "model.latent_dim=2"),
        ("shala", "model.latent_dim=2", "prior.kind=gmm"),
        ("shala", "model.latent_dim=5"),
        ("mopoe,mmvm",),
    ):
        overrides.append("train.precision=float32")
        runs += plan(models.split(","), "toy", "smoke", (0,), overrides)
    with Reporter() as reporter:
        assert run_campaign(runs, chosen, reporter).exit_code == 0
    return chosen


@pytest.fixture
def seen(monkeypatch):
    """What is drawn, in its order."""
    found, draw = [], latents.clouds.clouds

    def clouds(rows, title, alt, keys):
        found.append(SimpleNamespace(rows=rows, title=title, alt=alt, keys=keys))
        return draw(rows, title, alt, keys)

    monkeypatch.setattr(latents.clouds, "clouds", clouds)
    return found


def loader(made):
    return functools.partial(load_with_classifiers, paths=made.paths)


def drawn(made: Options, out, **filters):
    return write_latents([Store(made.store)], out, loader(made), **filters)


def titles(drawing):
    return [[cloud.title for cloud in row] for row in drawing.rows]


def test_figure_four_is_picked_by_its_digits_and_has_the_same_bytes(made, seen, tmp_path):
    written = []
    for name in ("a", "b"):
        words = ["figure", "latent", "--digits", "1,0", "--out", str(tmp_path / name)]
        words += ["--store", str(made.store), "--cache-dir", str(made.paths.cache)]
        found = CliRunner().invoke(main, words)
        assert found.exit_code == 0, found.output
        files = sorted((tmp_path / name).iterdir())
        assert [file.suffix for file in files] == [".pdf", ".png", ".svg"]
        assert all(file.name.startswith("latent-polydigits-smoke") for file in files)
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]
    assert [drawing.title for drawing in seen] == ["Latents of shala on polydigits"] * 2


def test_the_way_of_the_prior_stands_between_gaussian_and_posterior(made, seen, tmp_path):
    drawn(made, tmp_path, digits=(0, 1))
    (drawing,) = seen
    assert titles(drawing) == [["Gaussian", *WAY, "posterior"]]
    ((*ways, posterior),) = drawing.rows
    assert sorted(set(posterior.classes)) == [0, 1]
    assert {label for way in ways for label in way.classes} <= {None, 0, 1}
    assert all(len(w.points) == len(w.classes) == 20 for w in (*ways, posterior))
    assert all(w.note.endswith(" % agree") for w in (*ways, posterior))
    assert "20 points a panel: Gaussian: " in drawing.alt
    assert set(drawing.keys) - {None} == {0, 1}


def test_other_latents_are_flattened_by_pca_and_by_umap_or_t_sne(made, seen, tmp_path, monkeypatch):
    class Umap:
        def __init__(self, **settings):
            assert settings["random_state"] == 0

        def fit_transform(self, x):
            assert len(x) == 128  # prior and posterior together, so that a hole stays one
            return np.asarray(x)[:, :2]

    for module in (None, SimpleNamespace(UMAP=Umap)):
        monkeypatch.setitem(sys.modules, "umap", module)
        drawn(made, tmp_path, models=("mopoe",))
    assert list(map(titles, seen)) == [[["prior", "posterior"]] * 2] * 2
    ways = [[row[0].beside.split(",")[0] for row in drawing.rows] for drawing in seen]
    assert ways == [["PCA", "t-SNE"], ["PCA", "UMAP"]]
    assert "Projected by PCA, " in seen[1].alt
    before, after = seen[0].rows[0]
    assert set(before.classes) == {None}  # no classifiers of the toy data are shipped
    assert set(after.classes) == {0, 1, 2, 3}


def test_a_mixture_in_place_of_the_prior_has_no_way_from_noise(made, seen, tmp_path):
    files, left_out = drawn(made, tmp_path, dataset="toy", models=("shala",))
    assert (len(files), left_out) == (9, [])
    ways = sorted(titles(drawing)[0] for drawing in seen)
    assert ways == [["Gaussian", *WAY, "posterior"]] * 2 + [["prior", "posterior"]]


def test_the_way_of_a_prior_in_many_dimensions_is_seen_along_the_posterior_s_axes(
    made, seen, tmp_path
):
    drawn(made, tmp_path, dataset="toy", models=("shala",))
    seen_by = [drawing for drawing in seen if drawing.rows[0][0].beside.startswith("PCA")]
    ((row, *_),) = [drawing.rows for drawing in seen_by]
    assert [cloud.title for cloud in row] == ["Gaussian", *WAY, "posterior"]
    spread = np.asarray(row[-1].points).std(0)
    assert spread[0] >= spread[1]  # the posterior's first axis is its longest


def test_a_method_without_a_prior_is_named_and_the_others_drawn(made, tmp_path):
    files, left_out = drawn(made, tmp_path, dataset="toy")
    assert len(files) == 12
    assert left_out == ["mmvm has no shared latent with a prior that could be drawn."]


def test_records_without_weights_say_how_to_train_the_run(made, tmp_path):
    Store(made.store).export(tmp_path / "records")
    with pytest.raises(BenchError, match="recorded without weights") as told:
        write_latents([Store(tmp_path / "records")], tmp_path, loader(made), digits=(0, 1))
    command = shlex.split(str(told.value).split("This trains it: ")[1])
    assert command[:3] == ["python", "bench.py", "run"]
    assert command[3:9] == ["--models", "shala", "--dataset", "polydigits", "--preset", "smoke"]
    assert command[9:] == [word for text in DIGITS + SIZES for word in ("--set", text)]


def test_a_run_that_is_not_trained_to_its_end_is_told_by_its_state(made, tmp_path):
    folder = folder_of(made, tmp_path)
    for file in (folder.path / "trained.json", folder.weights):
        file.unlink()
    folder.log("stopped")
    with pytest.raises(BenchError, match="without weights, its state is 'stopped'"):
        write_latents([Store(tmp_path)], tmp_path / "out", loader(made))


@pytest.mark.parametrize(
    ("asked", "command"),
    [
        (
            [],
            "--models shala --dataset polydigits --preset quick --set 'data.digits=[0,1]' --store ",
        ),
        (
            ["--models", "mmvae+", "--dataset", "polymnist", "--preset", "cpu"],
            "--models mmvae+ --dataset polymnist --preset cpu --set 'data.digits=[0,1]' --store ",
        ),
    ],
)
@pytest.mark.parametrize("others", [False, True])
def test_where_there_is_no_such_run_the_command_that_makes_it_is_named(
    asked, command, others, tmp_path
):
    if others:
        for seed, digits in enumerate(([0, 2], [1, 2])):
            settings = {"data.digits": digits}
            write_run(tmp_path, "shala", seed, 0.5, dataset="polydigits", settings=settings)
    words = ["figure", "latent", "--digits", "0,1", "--store", str(tmp_path), *asked]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 2
    assert "There is no run on the digits 0, 1" in found.output
    assert f"This makes one: python bench.py run {command}{tmp_path}" in found.output


@pytest.mark.parametrize("others", [False, True])
def test_an_unknown_name_is_told_and_no_command_made_of_it(others, tmp_path):
    if others:
        write_run(tmp_path, "shala", 0, 0.5)
    words = ["figure", "latent", "--dataset", "polymnst", "--store", str(tmp_path)]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 2
    assert "Unknown dataset 'polymnst'. Did you mean 'polymnist'?" in found.output
    assert "bench.py run" not in found.output


def test_what_is_no_digit_is_told():
    found = CliRunner().invoke(main, ["figure", "latent", "--digits", "0,ten"])
    assert found.exit_code == 2
    assert "--digits is '0,ten'" in found.output


def folder_of(made, tmp_path) -> RunFolder:
    """A copy of a run's records with its weights."""
    source = next(f for f in Store(made.store).runs() if f.run["model"] == "mopoe")
    (tmp_path / "run").mkdir()
    for name in ("run.json", "trained.json", "weights.pt"):
        (tmp_path / "run" / name).write_bytes((source.path / name).read_bytes())
    return RunFolder(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_version": 99}, "trained by version 99"),
        ({"data": {"fingerprint": "other", "source": "elsewhere"}}, "other data .elsewhere."),
        ({"settings": {"model.latent_dim": "wide"}}, "model.latent_dim = 'wide'"),
        ({"settings": {"model.latent_dim": 5}}, "do not load"),
    ],
)
def test_a_run_that_does_not_fit_what_is_here_is_not_taken_up(made, tmp_path, change, told):
    folder = folder_of(made, tmp_path)
    record = folder.run
    change = {k: {**record[k], **v} if isinstance(v, dict) else v for k, v in change.items()}
    (folder.path / "run.json").write_text(json.dumps(record | change))
    with pytest.raises(BenchError, match=told):
        load_trained(folder, made.paths)


def test_torn_weights_are_told(made, tmp_path):
    folder = folder_of(made, tmp_path)
    folder.weights.write_bytes(folder.weights.read_bytes()[:5000])
    with pytest.raises(BenchError, match="do not load"):
        load_trained(folder, DataPaths(tmp_path, tmp_path))
