"""Trained models in folders of weights: what is saved, what is loaded, and what is refused."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from helpers.campaigns import options, run, smoke

import shalabench as sb
from shalabench.api import BenchError, Rng
from shalabench.api.registry import entries
from shalabench.exchange import hub
from shalabench.exchange.card import LICENSES, command_of
from shalabench.exchange.pretrained import CARD, WEIGHTS
from shalabench.records.digests import FIELD, Damaged, digest_of, seal
from shalabench.records.locations import CONFIG
from shalabench.records.store import Store, read_json

CASES = {
    "shala": (),
    "mmvae+": ("sampling.joint_temperature=0.7",),
    "mvae": ("prior.kind=gmm", "prior.components=2"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs on toy by method; that of mvae has a fitted prior."""
    folder = tmp_path_factory.mktemp("runs")
    planned = [r for name, more in CASES.items() for r in smoke(name, overrides=more)]
    summary, _ = run(planned, options(folder, None, evaluators=("samples",)))
    assert summary.exit_code == 0
    return {found.run["model"]: found for found in Store(folder / "store").runs()}


@pytest.fixture(scope="module")
def saved(runs, tmp_path_factory):
    """The run of mvae in a folder of weights."""
    folder = tmp_path_factory.mktemp("saved") / "mvae"
    sb.load_run(runs["mvae"].path).save_pretrained(folder, license="apache-2.0")
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def no_data(monkeypatch):
    def fail(*_):
        raise AssertionError("A dataset was opened.")

    monkeypatch.setattr("shalabench.execute.trained.open_dataset", fail)


def rewrite(folder, change):
    """Change the config of a folder and seal it again."""
    config = json.loads((folder / CONFIG).read_text())
    del config[FIELD]
    change(config)
    (folder / CONFIG).write_bytes(seal((json.dumps(config, indent=1) + "\n").encode()))


def made(model):
    """What a loaded model makes of a seed and of views, by ability."""
    views = {
        "bar": torch.rand(3, 3, 8, 8, generator=torch.manual_seed(0)),
        "stripe": torch.rand(3, 1, 8, 8, generator=torch.manual_seed(1)),
        "word": ["abba", "cafe", "deed"],
    }
    given = {"bar": views["bar"]}
    return {
        **{f"sample {n}": x for n, x in model.sample(5, seed=3).items()},
        **{f"given {n}": x for n, x in model.translate(given, ["stripe", "word"], 1).items()},
        **{f"again {n}": x for n, x in model.reconstruct(views, seed=2).items()},
        "latent": model.encode(given, seed=4),
    }


@pytest.mark.parametrize("name", CASES)
def test_a_round_trip_gives_the_same_bits_without_the_data(name, runs, tmp_path, request):
    model = sb.load_run(runs[name].path)
    config = model.save_pretrained(tmp_path / "first")
    request.getfixturevalue("no_data")
    again = sb.load_pretrained(tmp_path / "first")
    expected, found = made(model), made(again)
    assert expected.keys() == found.keys()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    assert (again.names, again.classes, again.spec) == (model.names, model.classes, model.spec)
    assert repr(again) == repr(model)
    assert not again.model.training

    content = (tmp_path / "first" / WEIGHTS).read_bytes()
    assert config["weights"]["sha256"] == digest_of(content)
    settings = runs[name].run["settings"]
    assert config["run"]["settings"].items() <= settings.items()
    assert {key for key in settings if key.startswith(("model.", "prior."))} <= set(
        config["run"]["settings"]
    )
    again.save_pretrained(tmp_path / "second")
    for file in (WEIGHTS, CONFIG):
        assert (tmp_path / "second" / file).read_bytes() == (tmp_path / "first" / file).read_bytes()


def test_float16_states_how_far_its_samples_are(runs, tmp_path):
    model = sb.load_run(runs["shala"].path)
    before = made(model)
    config = model.save_pretrained(tmp_path / "half", precision="float16")
    assert all(torch.equal(x, before[key]) for key, x in made(model).items())  # it is as it was
    exact = model.save_pretrained(tmp_path / "whole")
    assert config["weights"]["bytes"] < 0.6 * exact["weights"]["bytes"]

    half = sb.load_pretrained(tmp_path / "half")
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    with torch.inference_mode():
        x, y = model.model.sample(64, Rng(0)), half.model.sample(64, Rng(0))
    stated = config["weights"]["rounding"]["mean_difference"]
    assert stated["bar"] == pytest.approx((x["bar"] - y["bar"]).abs().mean().item())
    assert stated["bar"] > 0
    assert stated["word"] == (x["word"] != y["word"]).double().mean().item()
    assert f"{stated['bar']:.2g} (bar)" in (tmp_path / "half" / CARD).read_text()

    again = half.save_pretrained(tmp_path / "again")  # rounded weights do not become exact
    assert again["weights"] == config["weights"]


def test_weights_beyond_float16_are_refused(runs, tmp_path):
    model = sb.load_run(runs["mvae"].path)
    with torch.no_grad():
        next(p for p in model.model.parameters() if p.dim() > 1).fill_(1e5)
    for precision, named in (("float16", "65504"), ("int8", "float16")):
        with pytest.raises(BenchError, match=named):
            model.save_pretrained(tmp_path / "half", precision=precision)
    assert not (tmp_path / "half").exists()


def test_changed_weights_do_not_have_the_scores_of_the_run(runs, tmp_path):
    model = sb.load_run(runs["mvae"].path)
    with torch.no_grad():
        next(model.model.parameters()).add_(0.01)
    config = model.save_pretrained(tmp_path / "changed")
    assert (config["results"], config["weights"]["changed"]) == ([], True)
    again = sb.load_pretrained(tmp_path / "changed")
    assert torch.equal(made(again)["latent"], made(model)["latent"])


# What is refused.


def test_damaged_weights_are_refused(copy):
    content = bytearray((copy / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (copy / WEIGHTS).write_bytes(content)
    with pytest.raises(Damaged, match="SHA-256"):
        sb.load_pretrained(copy)
    (copy / WEIGHTS).unlink()
    with pytest.raises(Damaged, match=WEIGHTS):
        sb.load_pretrained(copy)


def test_a_damaged_config_is_refused(copy):
    text = (copy / CONFIG).read_text()
    for broken in (text[:100], text.replace('"seed": 0', '"seed": 1', 1), "[]", ""):
        (copy / CONFIG).write_text(broken)
        with pytest.raises(Damaged, match=CONFIG):
            sb.load_pretrained(copy)


def test_a_pickle_is_never_opened(copy, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "opened",))

    torch.save({"x": Trap()}, copy / WEIGHTS)
    digest = digest_of((copy / WEIGHTS).read_bytes())
    rewrite(copy, lambda config: config["weights"].update(sha256=digest))
    with pytest.raises(Damaged, match="safetensors"):
        sb.load_pretrained(copy)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["run"].update(model="mvaee"), "'mvaee'"),
        (lambda c: c["run"].update(model_version=99), "version 99"),
        (lambda c: c["run"]["settings"].update({"model.latent_dim": 9}), "torch.Size"),
        (lambda c: c["run"]["settings"].update({"model.latent_dim": -1}), "model.latent_dim"),
        (lambda c: c["run"]["settings"].update({"model.nothing": 1}), "model.nothing"),
        (lambda c: c["spec"]["modalities"][0].update(shape=[3, 16, 16]), "torch.Size"),
        (lambda c: c["spec"]["modalities"][0].update(shape=[3, 16]), "'bar'"),
        (lambda c: c["spec"]["modalities"].pop(), "weights are not those"),
        (lambda c: c.update(format=2), "'format'"),
        (lambda c: c["weights"].update(file="../other"), "'weights.file'"),
        (lambda c: c["run"].pop("settings"), "'run.settings'"),
    ],
)
def test_a_config_of_another_model_is_refused(copy, change, named):
    rewrite(copy, change)
    with pytest.raises(BenchError, match=named) as caught:
        sb.load_pretrained(copy)
    assert str(caught.value).endswith(".")


def test_code_that_settings_name_is_imported_only_if_trusted(copy, tmp_path, monkeypatch):
    (tmp_path / "hostile.py").write_text("raise SystemError('it was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    custom = {"model.network.custom.bar": "hostile:factory"}
    rewrite(copy, lambda config: config["run"]["settings"].update(custom))
    with pytest.raises(BenchError, match="trust_code"):
        sb.load_pretrained(copy)
    with pytest.raises(BenchError, match="it was imported"):
        sb.load_pretrained(copy, trust_code=True)


def test_what_is_no_folder_of_weights_is_named(tmp_path):
    for source in (tmp_path, tmp_path / "absent", "nothing"):
        with pytest.raises(BenchError, match=Path(source).name):
            sb.load_pretrained(source)


# The model card.


def test_the_card_has_the_scores_of_the_record_and_no_others(runs, saved):
    card = pytest.importorskip("huggingface_hub").ModelCard((saved / CARD).read_text())
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "shala-bench")
    shown = {(r.metric_name, r.dataset_split): r for r in card.data.eval_results}
    recorded = {
        (score["metric"], result["split"]): score
        for result in runs["mvae"].results()
        for score in result["scores"]
        if not score["given"] and score["target"] is None
    }
    assert recorded
    assert shown.keys() == recorded.keys()
    for key, score in recorded.items():
        assert shown[key].metric_value == score["value"]
        assert shown[key].metric_args["n"] == score["n"]
        assert shown[key].metric_args.get("stderr") == score["stderr"]
        assert f"| {key[0]} |" in card.text


def test_the_command_of_the_card_trains_the_same_run(runs, saved):
    from shalabench.cli.run import run as command
    from shalabench.config.plan import plan

    for name, folder in runs.items():
        words = shlex.split(command_of(folder.run))
        given = command.make_context("run", words[2:]).params
        (planned,) = plan(
            *(given[key] for key in ("models", "dataset", "preset", "seeds", "overrides"))
        )
        values = planned.resolved.values()
        assert planned.model == name
        assert {key: values[key] for key in values if key in folder.run["settings"]} == {
            key: x for key, x in folder.run["settings"].items() if key in values
        }
    assert command_of(runs["mvae"].run) in (saved / CARD).read_text()


def test_the_licence_of_every_dataset_is_known():
    assert entries("dataset").keys() <= LICENSES.keys()


# The hub.


def test_without_huggingface_hub_folders_load_and_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    hub._hub_class.cache_clear()
    model = sb.load_pretrained(saved)
    for use in (lambda: sb.load_pretrained("owner/name"), lambda: model.push_to_hub("owner/name")):
        with pytest.raises(BenchError, match=r"pip install 'shala-bench\[hub\]'"):
            use()


def test_a_model_of_the_hub_loads_from_its_cache(saved, tmp_path):
    pytest.importorskip("huggingface_hub")
    hub._hub_class.cache_clear()
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("0" * 40)
    shutil.copytree(saved, snapshot)
    refs = tmp_path / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    local = {"cache_dir": tmp_path, "local_files_only": True}
    model = sb.load_pretrained("owner/name", **local)
    expected = made(sb.load_pretrained(saved))
    assert all(torch.equal(x, expected[key]) for key, x in made(model).items())
    assert type(model) is type(sb.load_pretrained(saved))
    with pytest.raises(BenchError, match="owner/absent"):
        sb.load_pretrained("owner/absent", **local)
    (snapshot / CONFIG).write_text("[")
    with pytest.raises(BenchError, match=CONFIG):
        sb.load_pretrained("owner/name", **local)


def test_the_mixin_uploads_what_is_saved(saved, tmp_path, monkeypatch):
    api = pytest.importorskip("huggingface_hub").HfApi
    hub._hub_class.cache_clear()

    class Repo:
        repo_id = "owner/name"

    def upload(self, *, repo_id, folder_path, **_):
        shutil.copytree(folder_path, tmp_path / "uploaded")
        return f"commit in {repo_id}"

    monkeypatch.setattr(api, "create_repo", lambda self, **_: Repo())
    monkeypatch.setattr(api, "upload_folder", upload)
    model = sb.load_pretrained(saved)
    assert model.push_to_hub("owner/name", private=True) == "commit in owner/name"
    files = {file.name for file in (tmp_path / "uploaded").iterdir()}
    assert files == {WEIGHTS, CONFIG, CARD}
    expected = made(model)
    again = made(sb.load_pretrained(tmp_path / "uploaded"))
    assert all(torch.equal(x, expected[key]) for key, x in again.items())


# The command, and weights that are part of the package.


def test_the_command_writes_a_folder_that_loads_by_its_name(runs, tmp_path, monkeypatch, request):
    from click.testing import CliRunner

    from shalabench.cli import main

    words = ["weights", str(runs["shala"].path), str(tmp_path / "weights" / "tiny")]
    done = CliRunner().invoke(main, [*words, "--precision", "float16", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["precision"] == "float16"
    assert CliRunner().invoke(main, words).exit_code == 2  # nothing is overwritten

    request.getfixturevalue("no_data")
    monkeypatch.setattr("shalabench.records.locations.committed", lambda: tmp_path)
    monkeypatch.setattr("shalabench.records.locations.default_store", lambda: tmp_path / "runs")
    for load in (sb.load_run, sb.load_pretrained):
        assert load("tiny").sample(2)["bar"].shape == (2, 3, 8, 8)
        with pytest.raises(BenchError, match="tiny"):
            load("tinny")


def test_packaged_weights_are_small_whole_and_stated():
    from shalabench.records.locations import packaged_weights

    for name, folder in packaged_weights().items():
        assert max(file.stat().st_size for file in folder.iterdir()) < 5e6, name
        model = sb.load_pretrained(folder)
        assert model.sample(2).keys() == set(model.names), name
        config = read_json(folder / CONFIG)
        assert config["results"], name
        assert config["weights"]["precision"] == "float32" or config["weights"]["rounding"], name
