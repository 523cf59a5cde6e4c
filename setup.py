"""The packages of the wheel; everything else is in pyproject.toml.

The committed records of `results/` become data of the package `shalabench.records.committed`.
"""

from setuptools import find_packages, setup

ROOMS = ["shalabench*", "shala", "baselines", "evaluators", "classifiers"]

setup(packages=[*find_packages(include=ROOMS), "shalabench.records.committed"])
