"""Trained models on the Hugging Face hub, through the mixin of huggingface_hub (extra `hub`)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from shalabench.api import BenchError
from shalabench.exchange.loaded import LoadedRun
from shalabench.exchange.pretrained import CARD, LIBRARY, WEIGHTS, load
from shalabench.records.locations import CONFIG


@functools.cache
def _hub_class() -> Any:
    """A class with the mixin's `from_pretrained` and `push_to_hub` that writes and reads ours.

    Raises:
        BenchError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import ModelHubMixin, snapshot_download
    except ImportError as error:
        raise BenchError(
            "The Hugging Face hub needs huggingface_hub, which is not installed: "
            f"pip install '{LIBRARY}[hub]'."
        ) from error

    class OnHub(ModelHubMixin, library_name=LIBRARY):
        def __init__(self, loaded: LoadedRun, form: dict[str, Any]):
            self.loaded, self.form = loaded, form

        def _save_pretrained(self, save_directory: Path) -> None:
            self.loaded.save_pretrained(save_directory, **self.form)

        @classmethod
        def _from_pretrained(  # type: ignore[override]
            cls, *, model_id: str, trust_code: bool, **options: Any
        ) -> LoadedRun:
            known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            folder = snapshot_download(
                model_id,
                allow_patterns=[CONFIG, WEIGHTS, CARD],
                **{key: options[key] for key in known},
            )
            return load(Path(folder), trust_code=trust_code)

    return OnHub


def load_from_hub(name: str, *, trust_code: bool = False, **options: Any) -> LoadedRun:
    """A trained model from the hub.

    Args:
        name: "owner/name".
        trust_code: As in `pretrained.load`.
        options: Of the mixin: revision, cache_dir, force_download, local_files_only, token.

    Raises:
        BenchError: huggingface_hub is not installed, the hub has no such model or cannot be
            reached, or the model does not load.
    """
    hub = _hub_class()
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return hub.from_pretrained(name, trust_code=trust_code, **options)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise BenchError(
            f"'{name}' is no folder with a {CONFIG}, and it does not come from the Hugging Face "
            f"hub ({reason}). Check the name, the connection and, of a private model, the token."
        ) from error
    except (AttributeError, TypeError, ValueError) as error:  # the mixin reads it before `load`
        raise BenchError(f"The {CONFIG} of '{name}' does not read ({error}).") from error


def push(loaded: LoadedRun, name: str, form: dict[str, Any], options: dict[str, Any]) -> str:
    """Write a model to the hub and return the address of the commit.

    Args:
        loaded: The model.
        name: "owner/name".
        form: The other arguments of `LoadedRun.save_pretrained`.
        options: Of the mixin's `push_to_hub`: commit_message, private, token, branch, create_pr.
    """
    return str(_hub_class()(loaded, form).push_to_hub(name, **options))
