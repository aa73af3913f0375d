"""Models by name: a local folder as it is, a Hugging Face hub id downloaded into the hub's own cache. And the way
back: a folder as a model of the hub."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agq.errors import AgqError, UsageError
from agq.reporting import console

if TYPE_CHECKING:
    from agq.recipe import Recipe

# What a model is made of. Weights in other formats, and other frameworks' files, stay where they are.
_WANTED = ["*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja"]
_UNWANTED = ["original/*", "onnx/*", "openvino/*", "coreml/*", "consolidated*", "flax_model*", "rust_model*"]


def local_folder(name: str | os.PathLike[str]) -> Path:
    """The folder (or file) of a model: a local path as it is; a hub id ("owner/name" or "owner/name@revision") after
    its download.

    Only weights in safetensors format are downloaded; HF_HOME, HF_TOKEN and HF_HUB_OFFLINE count as usual.

    Raises:
        AgqError: no such path, no such model, no permission, no network; the model has no safetensors.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    text = os.fspath(name)
    if text.count("/") != 1 + text.partition("@")[2].count("/") or text.startswith((".", "/", "~")):
        from agq.recipe.models import MEANS

        raise AgqError(f"no such file or folder: `{text}`", hint=MEANS)
    repo, _, revision = text.partition("@")
    folder = _download(repo, revision, _WANTED)
    if not any(folder.glob("*.safetensors")):
        raise AgqError(
            f"hub model `{repo}` has no weights in safetensors format",
            hint="convert it once: python -c "
            '"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
            f"[kind.from_pretrained('{repo}').save_pretrained('model') for kind in (M, T)]\""
            ", then pass the folder `model`",
        )
    return folder


def offline_if_unreachable() -> None:
    """Switches the hub's libraries to offline mode (cache only) where the hub's name cannot be resolved.

    They would otherwise retry for half a minute. Does nothing behind a proxy, which resolves names itself.
    """
    if os.environ.get("HF_HUB_OFFLINE") or any(
        name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ
    ):
        return
    import socket
    from urllib.parse import urlsplit

    host = urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname or "huggingface.co"
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        for module in ("huggingface_hub.constants", "datasets.config"):
            if module in sys.modules:  # imported before: it has read the variable already
                sys.modules[module].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]  # modules of any kind


def config_file(name: str) -> Path:
    """The config.json of a hub id, downloaded without the weights.

    Raises:
        AgqError: as local_folder.
    """
    folder = _download(*name.partition("@")[::2], ["config.json"])
    if not (folder / "config.json").is_file():
        raise AgqError(f"hub model `{name}` has no config.json", hint="is it a Hugging Face model?")
    return folder / "config.json"


def _download(repo: str, revision: str, wanted: list[str]) -> Path:
    """The folder of the hub's cache with the files that are `wanted` (patterns). Raises AgqError."""
    offline_if_unreachable()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    offline_hint = "connect to the network once, or download the model elsewhere and pass its folder"
    _quiet()
    console.say(f"model {repo}: looking in the hub's cache, downloading what is missing")
    try:
        folder = Path(
            snapshot_download(repo, revision=revision or None, allow_patterns=wanted, ignore_patterns=_UNWANTED)
        )
    except GatedRepoError:
        raise AgqError(
            f"hub model `{repo}` asks for its licence to be accepted",
            hint=f"accept it at https://huggingface.co/{repo} and set HF_TOKEN, or pass a local folder",
        ) from None
    except RevisionNotFoundError:
        raise AgqError(f"hub model `{repo}` has no revision `{revision}`") from None
    except RepositoryNotFoundError:
        raise AgqError(
            f"no local folder and no hub model `{repo}`", hint="check the name; a private model needs HF_TOKEN"
        ) from None
    except HFValidationError:
        raise AgqError(f"`{repo}` is neither a local folder nor a hub id") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise AgqError(
            f"no local folder `{repo}`, and hub model `{repo}` is not in the cache and cannot be downloaded now",
            hint=offline_hint,
        ) from None
    except HfHubHTTPError as error:
        raise AgqError(f"hub model `{repo}`: {_reason(error)}", hint=offline_hint) from None
    except _connection_errors() as error:
        raise _unreachable(error, f"hub model `{repo}` cannot be downloaded", offline_hint) from None
    return folder


def check_push(repo: str) -> None:
    """What can be known before any work of `push_folder`.

    Raises:
        UsageError: `repo` is no "owner/name". AgqError: the hub's libraries are offline, there is no token.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        named = repo.count("/") == 1
    except HFValidationError:
        named = False
    if not named:
        raise UsageError(f"`{repo}` is not the name of a hub model", hint="it looks like `owner/name`")
    if constants.HF_HUB_OFFLINE:
        raise AgqError("nothing is pushed while HF_HUB_OFFLINE is set", hint="unset it, or leave `push:` away")
    if not get_token():
        raise AgqError("pushing to the hub needs a token", hint="run `hf auth login` once, or set HF_TOKEN")


def push_folder(folder: Path, repo: str, message: str) -> str:
    """Uploads the files of a folder as one commit to the hub model `repo`, which is made where there is none; its
    address. HF_TOKEN and HF_ENDPOINT count as usual.

    Raises:
        AgqError: no permission, no network, the hub refuses; the folder stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    _quiet()
    console.say(f"pushing `{folder}` to {repo}")
    hint = f"the folder is complete; `hf upload {repo} {folder}` tries again"
    try:
        api = HfApi()
        address = str(api.create_repo(repo, exist_ok=True))
        # Weights of an earlier push that this one does not have: loaders would take them first.
        old = ["*.safetensors", "*.safetensors.index.json"]
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message, delete_patterns=old)
    except HfHubHTTPError as error:
        raise AgqError(f"hub model `{repo}` cannot be written: {_reason(error)}", hint=hint) from None
    except _connection_errors() as error:
        raise _unreachable(error, f"hub model `{repo}` cannot be reached", hint) from None
    return address


def _connection_errors() -> tuple[type[Exception], ...]:
    """Connection errors are OSErrors, or those of the HTTP library that the hub's library stands on."""
    from huggingface_hub.errors import HfHubHTTPError

    return (
        OSError,
        *(base for base in HfHubHTTPError.__mro__[1:] if base.__name__ in ("HTTPError", "RequestException")),
    )


def _unreachable(error: Exception, problem: str, hint: str) -> Exception:
    """What to raise for one of `_connection_errors`: errors of the machine's own files stay what they are."""
    own = getattr(error, "errno", None) is not None
    return error if own else AgqError(f"{problem}: {_reason(error)}", hint=hint)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _quiet() -> None:
    """No bars of the hub's library where agq shows none."""
    if not console.settings.progress or console.settings.verbosity < 0:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def find_model(name: str | os.PathLike[str]) -> tuple[Path, Recipe | None]:
    """The file or folder of MODEL, and the recipe that named it: what every command calls first. See
    agq/recipe/models.py for what MODEL may be; a hub id is downloaded.

    Raises:
        AgqError: nothing has this name; as local_folder.
    """
    path = Path(name).expanduser()
    if (
        os.fspath(name)
        and path.suffix not in (".yaml", ".yml")
        and (path.is_file() or (path / "config.json").is_file())
    ):
        return path, None  # `run` starts faster without the recipes
    from agq.recipe import resolve_model

    model, recipe = resolve_model(os.fspath(name))
    if recipe is not None and not Path(model).exists() and Path(model).is_absolute():
        raise AgqError(
            f"recipe `{name}`: its model `{model}` is not there",
            hint="it lies in agq's source tree: clone the repository",
        )
    return local_folder(model), recipe
