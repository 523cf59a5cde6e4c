"""Settings: layers in the stated order, every value with its origin, every mistake at once."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import bench
from shalabench.api import BenchError, ConfigErrors, Settings, setting
from shalabench.config import settings as config
from shalabench.config.evaluation import resolve_evaluation
from shalabench.config.plan import plan
from shalabench.config.settings import resolve, resolve_data


def call(*arguments):
    return CliRunner().invoke(bench.main, list(arguments))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder of settings with an empty preset "p" in place of the project's."""
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    (tmp_path / "presets").mkdir()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "presets" / "p.toml").write_text("# About.\n")
    return tmp_path


def test_layers_override_in_the_stated_order(files):
    (files / "presets" / "p.toml").write_text(
        "# About.\n[model]\nlatent_dim = 2\nbeta = { value = 2, source = 'here' }\nsteps = 2\n"
    )
    (files / "datasets" / "toy.toml").write_text(
        "[model]\nsteps = 3\nbatch_size = 3\nfeature_dim = 3\n[models.shala]\nbatch_size = 4\n"
        "feature_dim = 4\n[presets.p.models.shala]\nfeature_dim = 5\n"
    )
    found = resolve("shala", "toy", "p", ("model.fusion_width=6",))
    model = found.model
    assert (model.latent_dim, model.beta, model.steps) == (2, 2, 3)
    assert (model.batch_size, model.feature_dim, model.fusion_width) == (4, 5, 6)
    assert found.origins["model.beta"].source == "here"
    assert found.origins["model.beta"].layer == "preset p"
    assert found.origins["model.steps"].layer == "dataset toy"
    assert found.origins["model.batch_size"].layer == "dataset toy x shala"
    assert found.origins["model.feature_dim"].layer == "dataset toy x shala, preset p"
    assert found.origins["model.fusion_width"].layer == "--set"
    assert found.origins["model.kl_warmup"].layer == "class default"


def test_several_mistakes_are_reported_together():
    result = call(
        *("config", "--models", "shalla,mmvaee", "--dataset", "toy"),
        *("--preset", "smok", "--set", "train.precision=half"),
    )
    for word in ("'shalla'", "'mmvaee'", "'smok'", "train.precision"):
        assert word in result.output
    result = call(
        *("config", "--models", "shala", "--dataset", "toy"),
        *("--set", "train.precision=half", "--set", "model.nothing=1", "--set", "data.train=1"),
    )
    for word in ("train.precision", "model.nothing", "data.train"):
        assert word in result.output


def test_mistakes_of_every_kind_are_reported_together(files):
    (files / "presets" / "p.toml").write_text("[modle]\n[models.shalla]\nbeta = 1\n")
    (files / "datasets" / "toy.toml").write_text("[presets.q.model]\n[train]\nlog_evry = 1\n")
    overrides = (
        *("models.mmvae.beta=1", "model.beta=-1", "model.steps=many", "model.prior=3"),
        *("data.train=1", "nonsense", "model.=1"),
    )
    with pytest.raises(ConfigErrors) as caught:
        plan(["shala"], "toy", "p", [0], overrides, ["coherense"])
    reported = "\n".join(caught.value.messages)
    for words in (
        "'modle'. Did you mean 'model'?",
        "model 'shalla'. Did you mean 'shala'?",
        "preset 'q'",
        "'train.log_evry'. Did you mean 'train.log_every'?",
        "model 'mmvae'",
        "model.beta is -1: input should be greater than or equal to 0 (--set)",
        "model.steps is 'many'",
        "'model.prior'",
        "data.train is 1",
        "'--set nonsense' is no setting",
        "'model.'",
        "evaluator 'coherense'. Did you mean 'coherence'?",
    ):
        assert words in reported
    assert len(caught.value.messages) == len(set(caught.value.messages))


def test_a_setting_for_a_method_that_is_not_run_is_a_mistake():
    with pytest.raises(ConfigErrors, match=r"model 'mmvae\+'.*--set models\.mmvae\+\.beta=1"):
        plan(["shala"], "toy", "smoke", [0], ["models.mmvae+.beta=1"])


def test_a_setting_for_one_method_leaves_the_others_alone():
    overrides = ["models.shala.beta=7", "models.mmvae+.beta=8"]
    runs = {r.model: r for r in plan(["shala", "mmvae+"], "toy", "smoke", [0], overrides)}
    assert runs["shala"].resolved.model.beta == 7
    assert runs["mmvae+"].resolved.model.beta == 8


def test_all_stands_for_every_registered_method_and_seeds_come_first():
    runs = plan(["all"], "toy", "smoke", [0, 4])
    assert {r.model for r in runs} >= {"shala", "mmvae+"}
    assert [r.seed for r in runs] == sorted(r.seed for r in runs)


def test_a_table_s_source_holds_for_its_plain_values(files):
    (files / "datasets" / "toy.toml").write_text(
        "[models.shala]\nsource = 'here'\nbeta = 2\nsteps = { value = 3, source = 'there' }\n"
        "prior.width = 64\n[model]\nbatch_size = 5\n"
    )
    origins = resolve("shala", "toy", "p", ()).origins
    assert origins["model.beta"].source == "here"
    assert origins["model.steps"].source == "there"
    assert origins["model.prior.width"].source == "here"
    assert origins["model.batch_size"].source == "datasets/toy.toml"


def test_a_file_s_source_holds_for_all_that_has_no_other(files):
    (files / "datasets" / "toy.toml").write_text(
        "source = 'file'\n[model]\nbatch_size = 5\n[models.shala]\nsource = 'table'\nbeta = 2\n"
        "[presets.p.models.shala]\nsteps = 3\n"
    )
    origins = resolve("shala", "toy", "p", ()).origins
    assert origins["model.batch_size"].source == "file"
    assert origins["model.beta"].source == "table"
    assert origins["model.steps"].source == "file"


def test_a_dataset_s_file_lies_over_its_base(files):
    (files / "datasets" / "cars.toml").write_text(
        "source = 'base'\n[models.shala]\nbeta = 2\nsteps = 2\nlatent_dim = 2\n"
        "[presets.p.models.shala]\nlatent_dim = 4\n[data]\ntrain = 50\n"
    )
    (files / "datasets" / "toy.toml").write_text(
        "base = 'cars'\n[models.shala]\nsteps = 3\nlatent_dim = 3\n"
    )
    found = resolve("shala", "toy", "p", ())
    assert (found.model.beta, found.model.steps, found.model.latent_dim) == (2, 3, 4)
    origins = {key: found.origins[f"model.{key}"] for key in ("beta", "steps")}
    assert {origin.layer for origin in origins.values()} == {"dataset toy x shala"}
    assert (origins["beta"].file, origins["beta"].source) == ("datasets/cars.toml", "base")
    assert (origins["steps"].file, origins["steps"].source) == ("datasets/toy.toml",) * 2
    assert found.data.train == resolve_data("toy", ()).train == 50


def test_a_preset_s_file_lies_over_its_base_and_both_below_the_dataset_s(files):
    (files / "presets" / "p.toml").write_text(
        "base = 'q'\nsource = 'mine'\n[models.shala]\nsteps = 3\nlatent_dim = 3\n"
    )
    (files / "presets" / "q.toml").write_text(
        "source = 'base'\n[models.shala]\nbeta = 2\nsteps = 2\nfeature_dim = 2\n"
    )
    (files / "datasets" / "toy.toml").write_text(
        "[models.shala]\nlatent_dim = 4\n[presets.q.models.shala]\nfeature_dim = 5\n"
    )
    found = resolve("shala", "toy", "p", ())
    values = found.model.beta, found.model.steps, found.model.latent_dim, found.model.feature_dim
    assert values == (2, 3, 4, 5)
    origins = {key: found.origins[f"model.{key}"] for key in ("beta", "steps", "feature_dim")}
    assert origins["beta"].layer == "preset q"
    assert (origins["beta"].source, origins["steps"].source) == ("base", "mine")
    assert origins["feature_dim"].layer == "dataset toy x shala, preset q"
    (files / "presets" / "q.toml").write_text("base = 'p'\n")
    with pytest.raises(ConfigErrors, match="base 'p'"):
        resolve("shala", "toy", "p", ())


def test_night_has_the_networks_of_cpu_and_a_schedule_that_can_be_cut():
    for model in ("shala", "mvtcae", "mopoe", "cmvae", "mmvae+"):
        night, cpu = (resolve(model, "polymnist", name, ()) for name in ("night", "cpu"))
        assert night.model.network == cpu.model.network
        assert night.model.optimiser.schedule == "wsd"
        assert night.model.optimiser.warmup == 700
        assert 20 < night.model.steps / cpu.model.steps < 31  # as docs/configuration.md says
        assert night.evaluators == cpu.evaluators
        assert night.prior.diffusion.steps == 50_000  # as ShaLa's, for every method
        assert night.prior.diffusion.sampling_steps == 20


def test_night_differs_from_cpu_in_updates_optimiser_and_three_settings_of_shala():
    changed = {}
    for model in ("shala", "mvtcae", "mopoe", "cmvae", "mmvae+"):
        night, cpu = (resolve(model, "polymnist", name, ()).values() for name in ("night", "cpu"))
        changed[model] = {key for key in night if night[key] != cpu[key]}
    changes = ("schedule", "warmup", "lr", "clip")
    common = {"model.steps", *(f"model.optimiser.{name}" for name in changes)}
    own = {"model.latent_dim", "model.prior.condition", "model.prior.steps"}
    assert changed.pop("shala") == common | own
    same = {"cmvae": {"model.optimiser.lr"}, "mmvae+": {"model.optimiser.lr"}}  # .002 in cpu too
    assert all(keys == common - same.get(model, set()) for model, keys in changed.items())


@pytest.mark.parametrize("preset", ["night", "night-tuned"])
def test_a_preset_refuses_what_it_is_not_for(preset):
    with pytest.raises(ConfigErrors) as caught:
        resolve("mvae", "cub", preset, ())
    dataset, method = caught.value.messages
    for word in (f"'{preset}'", "'cub'", "polymnist", "--preset cpu"):
        assert word in dataset
    for word in (f"'{preset}'", "'mvae'", "shala, mvtcae, mopoe, cmvae, mmvae+", "--preset cpu"):
        assert word in method


def test_a_plan_names_all_methods_that_a_preset_is_not_for_at_once():
    with pytest.raises(ConfigErrors) as caught:
        plan(["all"], "polymnist", "night", [0])
    (message,) = caught.value.messages
    assert "'mvae'" in message
    assert "'mmvae'" in message
    assert "'shala'" not in message
    assert [run.model for run in plan(["shala"], "polymnist", "night", [0])] == ["shala"]


def test_a_preset_says_what_it_is_for(files):
    (files / "presets" / "p.toml").write_text("datasets = ['toy']\nmethods = ['mvae']\n")
    assert resolve("mvae", "toy", "p", ()).model.steps
    with pytest.raises(ConfigErrors, match="choose another preset"):
        resolve("shala", "toy", "p", ())
    with pytest.raises(ConfigErrors) as caught:
        plan(["shalla"], "toi", "p", [0])
    assert all("Unknown" in message for message in caught.value.messages)


def test_an_evaluation_takes_the_values_of_a_preset_s_base(files):
    (files / "presets" / "p.toml").write_text("base = 'q'\n")
    (files / "presets" / "q.toml").write_text("[evaluators.coherence]\nsubset_items = 7\n")
    _, evaluators, origins = resolve_evaluation("toy", "p", ())
    assert evaluators["coherence"].subset_items == 7
    assert origins["evaluators.coherence.subset_items"].layer == "preset q"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base = 'tooy'", ("'tooy'", "toy-views", "datasets/toy.toml")),
        ("base = 'toy'", ("'toy'", "datasets/toy.toml")),
        ("model = 3", ("'model' of toy.toml",)),
        ("[presets.p.modle]\nbeta = 1", ("'modle'", "Did you mean 'model'?", "toy.toml")),
        ("[models.shala]\nbetta = 1", ("'model.betta'", "'model.beta'", "datasets/toy.toml")),
        ("[models.shala]\nbeta = -1", ("model.beta is -1", "datasets/toy.toml")),
        ("[models.shala", ("toy.toml",)),
    ],
)
def test_a_mistake_in_a_file_is_reported_with_file_key_and_nearest_name(files, text, words):
    (files / "datasets" / "toy-views.toml").write_text("# About.\n")
    (files / "datasets" / "toy.toml").write_text(text + "\n")
    with pytest.raises(ConfigErrors) as caught:
        resolve("shala", "toy", "p", ())
    (message,) = caught.value.messages
    for word in words:
        assert word in message


def test_a_preset_s_shared_setting_is_for_the_methods_that_have_it(files):
    (files / "presets" / "p.toml").write_text("[model]\nlatent_dim = 5\nrays = 3\n")
    assert resolve("shala", "toy", "p", ()).model.latent_dim == 5
    assert resolve("pixelnerf", "toy", "p", ()).model.rays == 3
    (files / "presets" / "p.toml").write_text("[model]\nlatend_dim = 5\n")
    with pytest.raises(ConfigErrors, match=r"Unknown setting 'model\.latend_dim'"):
        resolve("pixelnerf", "toy", "p", ())
    (files / "presets" / "p.toml").write_text("[models.pixelnerf]\nlatent_dim = 5\n")
    with pytest.raises(ConfigErrors, match=r"Unknown setting 'model\.latent_dim'"):
        resolve("pixelnerf", "toy", "p", ())


def test_a_setting_that_is_called_source_is_a_setting(files):
    (files / "datasets" / "polymnist.toml").write_text("[data]\nsource = 'generated'\n")
    assert resolve("shala", "polymnist", "p", ()).data.source == "generated"
    assert resolve_data("polymnist", ()).source == "generated"


def test_a_default_that_a_method_gives_a_shared_part_is_not_called_the_part_s():
    class Part(Settings):
        rate: float = setting(1.0, "Rate.", "torch")
        size: int = setting(1, "Size.", "torch")

    class Whole(Settings):
        cited: Part = setting(Part(rate=2.0), "Part.", "the paper")
        uncited: Part = Part(rate=2.0)

    assert dict(config._sources(Whole)) == {
        "cited.rate": "the paper",
        "cited.size": "torch",
        "uncited.rate": "the default of Whole",
        "uncited.size": "torch",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("[1, 2]", [1, 2]), ("true", True), ("conv", "conv"), ("'a b'", "a b")],
)
def test_a_value_is_read_as_toml_or_as_a_bare_word(text, value):
    assert config._parse(text) == value


def test_the_published_settings_of_mmvae_plus_are_those_of_its_code():
    """Typed from reproduction/polymnist.md, mmvae-plus.md by hand."""
    found = resolve("mmvae+", "polymnist", "paper", ())
    model = found.model
    assert model.network.family == "resnet"
    assert (model.importance_samples, model.beta) == (1, 2.5)
    assert (model.shared_dim, model.private_dim) == (32, 32)
    assert (model.batch_size, model.steps) == (128, 250 * (60_000 // 128))
    assert (model.optimiser.name, model.optimiser.lr, model.optimiser.amsgrad) == (
        "adam",
        1e-3,
        True,
    )
    for key in ("beta", "shared_dim", "steps", "optimiser.amsgrad"):
        assert found.origins[f"model.{key}"].layer == "dataset polymnist x mmvae+, preset paper"
        assert "reproduction/mmvae-plus.md" in found.origins[f"model.{key}"].source


def test_every_setting_of_every_preset_has_a_source():
    for dataset in ("polydigits", "polymnist", "toy"):
        for preset in ("smoke", "quick", "cpu", "paper"):
            result = call(
                *("config", "--models", "shala,mmvae+", "--dataset", dataset),
                *("--preset", preset, "--json"),
            )
            assert result.exit_code == 0, result.output
            for settings in json.loads(result.output).values():
                bare = [s["setting"] for s in settings if not s["source"]]
                assert bare == [], (dataset, preset)


def test_evaluators_have_the_settings_of_a_run_of_the_preset():
    for preset in ("quick", "quick-tuned"):
        run = resolve("mvae", "mst-digits", "quick", ())
        data, evaluators, _ = resolve_evaluation("mst-digits", preset, ())
        assert data == run.data
        assert evaluators == run.evaluators
    _, plain, origins = resolve_evaluation("polymnist", "", ("evaluators.quality.items=7",))
    assert plain["quality"].items == 7
    assert plain["quality"].resamples == 10  # the default; quick has 5
    assert origins["evaluators.quality.items"].layer == "--set"
    for preset, override, word in (("quik", (), "'quick'"), ("", ("model.x=1",), "model.x")):
        with pytest.raises(ConfigErrors, match=word):
            resolve_evaluation("polymnist", preset, override)


def test_networks_of_one_s_own_are_settings_by_modality():
    own = resolve("mvae", "toy", "smoke", ("model.networks.bar=a.b:C",))
    assert own.model.network.custom == {"bar": "a.b:C"}
    assert own.values()["model.network.custom.bar"] == "a.b:C"
    assert own.origins["model.network.custom.bar"].layer == "--set"
    plain = resolve("mvae", "toy", "smoke", ())
    assert "model.network.custom" not in plain.values()
    with pytest.raises(ConfigErrors, match=r"model\.network\.custom\.bar is 3: .*string"):
        resolve("mvae", "toy", "smoke", ("model.networks.bar=3",))


def test_sizes_that_no_machine_holds_are_refused():
    with pytest.raises(BenchError, match=r"data\.train is 1000000000: .* 1000000"):
        resolve("shala", "toy", "smoke", ["data.train=1000000000"])
    with pytest.raises(BenchError, match=r"data\.seed is -1"):
        resolve("shala", "toy", "smoke", ["data.seed=-1"])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "'NaN'"])
@pytest.mark.parametrize("key", ["model.beta", "sampling.joint_temperature"])
def test_a_setting_is_a_finite_number(value, key):
    with pytest.raises(BenchError, match=f"{key} is .*finite"):
        resolve("shala", "toy", "smoke", [f"{key}={value}"])
