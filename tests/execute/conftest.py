"""Fixtures of campaigns."""

import pytest
from helpers.campaigns import train_classifiers


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """Classifiers of the toy data, trained for a moment."""
    folder = tmp_path_factory.mktemp("archive")
    train_classifiers(folder)
    return folder
