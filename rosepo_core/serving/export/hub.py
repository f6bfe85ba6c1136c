"""Brings an export to the model hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from rosepo_core.contracts.errors import RequestError, RosepoError
from rosepo_core.store.files import STAGING


def push(folder: Path, name: str, *, public: bool) -> str:
    """Upload an export. The repository is made if there is none of this name.

    Args:
        folder: the export.
        name: ``ORG/NAME``.
        public: whether everyone may see it. Without this, a repository that everyone can see is left alone.

    Returns:
        the address of the commit.

    Raises:
        RequestError: the name is impossible, or the repository is public and `public` is not set.
        RosepoError: the hub cannot be reached or refuses.
    """
    api = HfApi()
    again = f"{folder} is whole; push it with `rosepo export {folder} --push {name}{' --public' if public else ''}`"
    try:
        _check_visibility(api, name, public)
        api.create_repo(name, private=not public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="Export of rosepo",
            ignore_patterns=[f"{STAGING}*"],
        )
    except HFValidationError as error:
        raise RequestError(f"--push {name}: {error}; write ORG/NAME") from None
    except HfHubHTTPError as error:
        cause = str(error).strip().splitlines()[0]
        raise RosepoError(f"the hub refused {name}: {cause}; log in with `hf auth login`. {again}") from error
    except OSError as error:
        raise RosepoError(f"the hub cannot be reached ({error}). {again}") from error
    return str(commit.commit_url)


def _check_visibility(api: HfApi, name: str, public: bool) -> None:
    """Refuse to show everyone what was not meant for everyone."""
    try:
        private = api.repo_info(name).private
    except RepositoryNotFoundError:
        return
    if not private and not public:
        raise RequestError(f"everyone can see {name} on the hub: add --public if this is meant, or name another")
