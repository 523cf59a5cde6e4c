"""Ablations: files become runs, a variant that changes nothing is the preset's own run, tables."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from helpers.records import write_run

import bench
from shalabench.analysis.tables import make_tables
from shalabench.api import BenchError, ConfigErrors
from shalabench.config.ablations import ablations, read_ablation, readable
from shalabench.config.plan import plan, plan_ablation
from shalabench.records.published import read_published
from shalabench.records.store import Store

WIDTH = "model.prior.width"


@pytest.mark.parametrize("name", ablations())
def test_every_file_s_variants_are_runs_that_differ_in_what_is_varied(name):
    ablation = read_ablation(name)
    runs = plan_ablation(ablation, "toy", "quick", [0, 1])
    assert len(runs) == 2 * len(ablation.variants)
    assert [run.seed for run in runs[: len(ablation.variants)]] == [0] * len(ablation.variants)
    values = [run.resolved.values() for run in runs[: len(ablation.variants)]]
    assert len({tuple(v[key] for key in sorted(ablation.keys)) for v in values}) == len(values)
    rest = [{k: x for k, x in v.items() if k not in ablation.keys} for v in values]
    assert all(other == rest[0] for other in rest)


def test_the_variant_that_the_preset_has_anyway_is_the_preset_s_own_run():
    (own,) = plan(["shala"], "toy", "quick", [0])
    assert own in plan_ablation(read_ablation("table6"), "toy", "quick", [0])
    assert own in plan_ablation(read_ablation("table5"), "toy", "quick", [0])


def test_a_scaled_variant_scales_what_dataset_and_preset_say():
    widths = [
        run.resolved.model.prior.width
        for run in plan_ablation(read_ablation("table6"), "toy", "quick", [0], (f"{WIDTH}=100",))
    ]
    assert widths == [141, 100, 71, 50]


def test_every_condition_of_the_paper_s_ablations_is_published():
    conditions = {p.condition for p in read_published() if p.method == "shala"}
    for name in ("table5", "table6"):
        assert {v.published for v in read_ablation(name).variants} <= conditions


def test_the_table_has_a_row_a_variant_in_their_order_beside_what_is_published(tmp_path):
    for width, joint in ((100, 0.5), (141, 0.6), (50, 0.3)):
        changed = [] if width == 100 else [f"{WIDTH}={width}"]
        settings = {WIDTH: width}
        write_run(
            tmp_path, "shala", 0, joint, name=str(width), overrides=changed, settings=settings
        )
    other = {WIDTH: 141, "model.beta": 2}
    write_run(tmp_path, "shala", 1, 0.9, name="other", overrides=["model.beta=2"], settings=other)
    ablation = read_ablation("table6")
    (table,) = make_tables([Store(tmp_path)], "coherence", ablation=ablation, dataset="polymnist")
    found = [(r.label, [c.mean for c in r.cells.values()] or r.missing) for r in table.rows]
    assert found == [
        ("shala (2x parameters)", [0.6]),
        ("shala (1x parameters)", [0.5]),
        ("shala (1/2x parameters)", "not run"),
        ("shala (1/4x parameters)", [0.3]),
    ]
    assert any(note.startswith("not run:") for note in table.notes)
    (table,) = make_tables([Store(tmp_path)], "fid", ablation=ablation, dataset="polymnist")
    published = [row.published["fid/inception-v3-compat/joint"] for row in table.rows]
    assert published == ["45.24", "47.30", "50.24", "56.44"]


def test_variants_under_another_setting_are_rows_of_their_own(tmp_path):
    for own in ([], ["model.beta=2"]):
        for width in (100, 141):
            changed = own + ([] if width == 100 else [f"{WIDTH}={width}"])
            settings = {WIDTH: width, "model.beta": 1 + len(own)}
            name = f"{width}-{len(own)}"
            write_run(tmp_path, "shala", 0, 0.5, name=name, overrides=changed, settings=settings)
    ablation = read_ablation("table6")
    (table,) = make_tables([Store(tmp_path)], "coherence", ablation=ablation, dataset="polymnist")
    assert [row.label for row in table.rows if row.cells] == [
        "shala (2x parameters)",
        "shala (1x parameters)",
        "shala (2x parameters) [model.beta=2]",
        "shala (1x parameters) [model.beta=2]",
    ]


def test_of_runs_that_differ_in_what_nobody_overrode_those_with_the_most_variants_are_shown(
    tmp_path,
):
    for width, precision in ((100, "bf16"), (100, "float32"), (141, "float32")):
        changed = [] if width == 100 else [f"{WIDTH}={width}"]
        facts = {"overrides": changed, "settings": {WIDTH: width}, "precision": precision}
        joint = 0.9 if precision == "bf16" else 0.5
        write_run(tmp_path, "shala", 0, joint, name=f"{width}-{precision}", **facts)
    ablation = read_ablation("table6")
    (table,) = make_tables([Store(tmp_path)], "coherence", ablation=ablation, dataset="polymnist")
    shown = [(row.label, row.cells["coherence/joint"].mean) for row in table.rows if row.cells]
    assert shown == [("shala (2x parameters)", 0.5), ("shala (1x parameters)", 0.5)]


def test_an_ablation_that_was_not_run_is_said_to_have_no_run(tmp_path):
    write_run(tmp_path, "mvae", 0, 0.5)
    with pytest.raises(BenchError, match=r"no run of the ablation 'pooling'.*--ablation pooling"):
        make_tables([Store(tmp_path)], "coherence", ablation=read_ablation("pooling"))
    with pytest.raises(BenchError, match="Unknown dataset"):
        make_tables(
            [Store(tmp_path)], "coherence", ablation=read_ablation("pooling"), dataset="polymist"
        )


def test_a_mistake_in_an_ablation_s_file_is_reported_with_its_key(tmp_path, monkeypatch):
    monkeypatch.setattr("shalabench.config.ablations.FOLDER", tmp_path)
    about = "title = 't'\nsource = 's'\nmodel = 'shala'\nmetric = 'fid'\n"
    (tmp_path / "a.toml").write_text(about + "[[variants]]\nlabel = 'x'\nscael.beta = 2\n")
    with pytest.raises(ConfigErrors, match=r"a\.toml, variants\.0 'scael'. Did you mean 'scale'"):
        read_ablation("a")
    (tmp_path / "a.toml").write_text(about + "[[variants]]\nscale.beta = 2\n")
    with pytest.raises(ConfigErrors, match=r"variants\.0\.label"):
        read_ablation("a")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["table", "--ablation", "table7"], "Did you mean 'table"),
        (["table"], "--metric"),
        (["run", "--ablation", "guidanse", "--dataset", "toy"], "Did you mean 'guidance'?"),
        (
            ["run", "--ablation", "table5", "--models", "shala", "--dataset", "toy"],
            "Leave out --models",
        ),
        (["run", "--dataset", "toy"], "table5"),
    ],
)
def test_mistakes_are_reported(arguments, expected):
    result = CliRunner().invoke(bench.main, arguments)
    assert result.exit_code == 2
    assert expected in result.output


ABOUT = "title = 't'\nsource = 's'\nmodel = 'shala'\nmetric = 'coherence'\n"
ROW = "[[variants]]\nlabel = 'x'\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder in place of the project's ablations."""
    where = tmp_path / "ablations"
    where.mkdir()
    monkeypatch.setattr("shalabench.config.ablations.FOLDER", where)
    return where


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ABOUT.replace("title", "titel") + ROW, ("a.toml 'titel'. Did you mean 'title'?",)),
        (ABOUT, ("'variants' of a.toml",)),
        (ABOUT + "variants = []\n", ("'variants' of a.toml",)),
        (ABOUT + "variants = [3]\n", ("'variants.0' of a.toml is 3",)),
        (ABOUT + ROW + ROW, ("2 variants are called 'x'",)),
        (ABOUT + ROW + "scale.a.b = 'two'\n", ("variants.0.scale.a.b' of a.toml is 'two'",)),
        (ABOUT + ROW + "scale.a = inf\n", ("variants.0.scale.a' of a.toml is inf",)),
        ("title = [[[", ("a.toml", "no TOML")),
        (b"title = '\xff'", ("a.toml", "no TOML")),
        ("a = " + "[" * 100_000, ("a.toml", "no TOML")),
    ],
)
def test_a_wrong_file_is_reported_with_its_key_and_value(folder, content, words):
    (folder / "a.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigErrors) as caught:
        read_ablation("a")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("varied", "word"),
    [
        ("set.'model.betta' = 2\n", "'model.betta'. Did you mean 'model.beta'?"),
        ("scale.model.prior.sampler = 2\n", "model.prior.sampler is"),
        ("set.model.beta = 'two'\n", "model.beta is 'two'"),
    ],
)
def test_what_no_run_can_vary_is_reported_with_its_file(folder, varied, word):
    (folder / "a.toml").write_text(ABOUT + ROW + varied)
    with pytest.raises(ConfigErrors) as caught:
        plan_ablation(read_ablation("a"), "toy", "smoke", [0])
    assert word in str(caught.value)
    assert "ablations/a.toml" in str(caught.value)


def test_keys_are_read_with_quotes_and_without_and_after_a_byte_order_mark(folder):
    for name, key in (("a", "'model.prior.width'"), ("b", "model.prior.width")):
        text = ABOUT + ROW + f"set.{key} = 64\n"
        (folder / f"{name}.toml").write_text(text, encoding="utf-8-sig")
        assert read_ablation(name).keys == {WIDTH}


def test_a_broken_file_ends_no_comparison_and_no_report(folder, tmp_path):
    (folder / "bad.toml").write_text(ABOUT + "[[variants]]\nlabl = 'x'\n")
    (folder / "good.toml").write_text(ABOUT + ROW + f"set.'{WIDTH}' = 100\n")
    for method, joint in (("shala", 0.5), ("mmvae+", 0.6)):
        write_run(tmp_path / "store", method, 0, joint, settings={WIDTH: 100})
    assert [ablation.name for ablation in readable()[0]] == ["good"]
    where = ["--store", str(tmp_path / "store")]
    for arguments in (["compare", "shala", "mmvae+"], ["report", str(tmp_path / "out")]):
        result = CliRunner().invoke(bench.main, [*arguments, *where])
        assert result.exit_code == 0, result.output
        if arguments[0] == "compare":
            assert "Did you mean 'label'?" in result.output
    pages = (tmp_path / "out").rglob("*.html")
    assert any("The ablation &#39;bad&#39; is left out" in page.read_text() for page in pages)
