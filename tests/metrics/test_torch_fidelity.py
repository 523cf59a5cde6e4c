"""What is used of torch-fidelity is not exported by it: the pin in pyproject.toml holds this."""

from __future__ import annotations

import inspect
import tomllib
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent.parent


def test_the_installed_version_is_the_pinned_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "torch-fidelity>=0.4,<0.5" in project["dependencies"]
    assert metadata.version("torch-fidelity").startswith("0.4.")


def test_the_functions_give_these_names():
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    x = torch.randn(20, 3, dtype=torch.float64)
    statistics = metric_fid.fid_features_to_statistics(x)
    assert set(statistics) == {"mu", "sigma"}
    assert statistics["sigma"].dtype == "float64"
    fid = metric_fid.fid_statistics_to_metric(statistics, statistics, verbose=False)
    assert set(fid) == {metric_fid.KEY_METRIC_FID}
    kid = metric_kid.kid_features_to_metric(x, x, kid_subset_size=20, kid_subsets=1, verbose=False)
    assert metric_kid.KEY_METRIC_KID_MEAN in kid
    prc = metric_prc.prc_features_to_metric(x, x, save_cpu_ram=True, verbose=False)
    assert {metric_prc.KEY_METRIC_PRECISION, metric_prc.KEY_METRIC_RECALL} <= set(prc)


def test_the_inception_takes_a_weights_file_and_states_its_address():
    from torch_fidelity import feature_extractor_inceptionv3 as module

    from shalabench.metrics.features import inception_file

    taken = inspect.signature(module.FeatureExtractorInceptionV3).parameters
    assert "feature_extractor_weights_path" in taken
    assert module.URL_INCEPTION_V3.endswith(inception_file().name)
