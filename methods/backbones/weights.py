"""Where a diffusers pipeline's weights are, and which they are: shipped, in a folder, or on the hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.hashing import named_files_sha256
from datasets.weights import Weight

SHIPPED = Path(__file__).parent / "checkpoints"
WEIGHTED = ("text_encoder", "transformer", "vae")
COMPONENTS = ("tokenizer", *WEIGHTED)
_LICENCES = {
    "sprites": "Apache-2.0",
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "Apache-2.0",
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": "Apache-2.0",
    "THUDM/CogVideoX-2b": "Apache-2.0",
    "THUDM/CogVideoX-5b": "CogVideoX LICENSE",
}
"""By model, where the hub cannot be asked."""
HUB_TIMEOUT = 5.0  # seconds for the one question whether the hub answers


@dataclass(frozen=True)
class Weights:
    """The weights a backbone's ``model`` and ``revision`` name; ``parts`` are the folders it reads."""

    model: str
    revision: str
    parts: tuple[str, ...] = COMPONENTS

    def named(self) -> Path | None:
        """The folder ``model`` names, shipped or local, or None for a hub id; else InputError."""
        if "/" not in self.model and (SHIPPED / self.model).is_dir():
            return SHIPPED / self.model
        path = Path(self.model).expanduser()
        if path.is_dir():
            return path
        if self.model.count("/") == 1 and not self.model.startswith((".", "~", "/")):
            return None
        raise InputError(
            f"backbone.model={self.model}: no such folder; give a diffusers folder, a hub id (owner/name), "
            "or use backbone.weights=random with a published architecture"
        )

    def folder(self) -> Path | None:
        """Local folder of the complete weights, or None when they must be downloaded.

        Raises InputError when ``model`` names a local folder that is missing or incomplete.
        """
        named = self.named()
        if named is not None:
            missing = _missing(named)
            if missing:
                raise InputError(
                    f"backbone.model={self.model}: {named / missing[0]} is missing; "
                    "give a complete diffusers folder, or use backbone.weights=random"
                )
            return named
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            cached = Path(snapshot_download(self.model, revision=self.revision, local_files_only=True))
        except LocalEntryNotFoundError:
            return None
        except HFValidationError:
            raise InputError(
                f"backbone.model={self.model}: no such folder, and no hub id; give a folder or an owner/name"
            ) from None
        return None if _missing(cached) else cached

    def described(self, architecture: object, untrained: bool) -> Path | None:
        """The folder whose ``config.json`` files give the sizes, or None where ``architecture`` does.

        Raises InputError when there is neither.
        """
        if untrained and architecture is not None:
            return None
        folder = self.named() or self.folder()
        if folder is None and architecture is None:
            raise InputError(
                f"backbone.architecture is null and backbone.model={self.model} is not on this machine: "
                "give the architecture, or a local folder"
            )
        return folder

    def identity(self) -> str:
        """``sha256:...`` of a local folder, or ``hub:repo@commit``.

        Raises InputError when a hub model is neither cached nor reachable.
        """
        named = self.named()
        if named is not None:
            files = sorted(
                path for part in self.parts for path in (named / part).rglob("*") if path.is_file()
            )
            names = {path.relative_to(named).as_posix(): path for path in files}
            return f"sha256:{named_files_sha256(names)}"
        cached = self.folder()
        return f"hub:{self.model}@{cached.name if cached else self.commit()}"

    def commit(self) -> str:
        """The commit the hub has for ``revision``; InputError when it cannot be had."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            return _hub_commit(self.model, self.revision)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise InputError(
                f"backbone.model={self.model}: the hub has no such model at revision {self.revision}"
            ) from None
        except Exception as error:  # the HTTP client's own exceptions change between versions
            raise InputError(
                f"backbone.model={self.model}: its weights are not on this machine and the hub cannot be "
                f"reached ({type(error).__name__}); connect once, or set backbone.model=FOLDER, "
                "or backbone.weights=random (speed and memory only)"
            ) from error

    def fetch(self) -> Path:
        """Download the commit that ``identity`` named, even if ``revision`` has moved on since."""
        from huggingface_hub import snapshot_download

        wanted = ["model_index.json", *(f"{part}/*" for part in self.parts)]
        commit = self.commit()
        try:
            folder = Path(snapshot_download(self.model, revision=commit, allow_patterns=wanted))
            # So that the cache knows the branch by its name too, and the next run needs no network.
            snapshot_download(self.model, revision=self.revision, allow_patterns=wanted[:1])
        except Exception as error:
            raise InputError(
                f"backbone.model={self.model}: the download failed ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}); run again, finished files are kept"
            ) from error
        return folder

    def listed(self) -> Weight:
        """As ``action=weights`` lists them; size and licence are the hub's where it can be asked."""
        folder = self.folder()
        if folder is not None:
            files = [path for part in self.parts for path in (folder / part).rglob("*") if path.is_file()]
            size = sum(path.stat().st_size for path in files)
            return Weight(self.model, size, _LICENCES.get(self.model, ""), folder)
        size, licence = _of_hub(self.model, self.revision, self.parts)
        return Weight(self.model, size, licence or _LICENCES.get(self.model, ""), None, self.fetch)

    def config(self, folder: Path, part: str) -> dict[str, Any]:
        """A part's configuration in ``folder``; InputError when it cannot be read."""
        path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        try:
            config: dict[str, Any] = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(
                f"backbone.model={self.model}: {path} cannot be read "
                f"({type(error).__name__}); give a complete diffusers folder"
            ) from error
        return config


def _missing(folder: Path) -> list[str]:
    """Files a folder needs and lacks, relative to it: configurations, tokenizer, every weight shard."""
    missing = [f"{part}/config.json" for part in WEIGHTED if not (folder / part / "config.json").is_file()]
    if not (folder / "tokenizer" / "tokenizer_config.json").is_file():
        missing.append("tokenizer/tokenizer_config.json")
    for part in WEIGHTED:
        indices = sorted((folder / part).glob("*.safetensors.index.json"))
        shards = {shard for path in indices for shard in json.loads(path.read_text())["weight_map"].values()}
        missing += [f"{part}/{shard}" for shard in sorted(shards) if not (folder / part / shard).is_file()]
        if not shards and not any((folder / part).glob("*.safetensors")):
            missing.append(f"{part}/*.safetensors")
    return missing


@lru_cache(maxsize=8)
def _of_hub(model: str, revision: str, parts: tuple[str, ...]) -> tuple[int, str]:
    """Bytes and licence that the hub tells of a model's parts; 0 and empty where it cannot be asked."""
    from huggingface_hub import HfApi

    try:
        told = HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT, files_metadata=True)
    except Exception:  # the HTTP client's own exceptions change between versions
        return 0, ""
    files = [one for one in told.siblings or () if one.rfilename.partition("/")[0] in parts]
    licence = told.card_data.license if told.card_data else None
    return sum(one.size or 0 for one in files), str(licence or "")


@lru_cache(maxsize=8)
def _hub_commit(model: str, revision: str) -> str:
    """The hub's commit of a branch, asked once a process: what is planned is what is fetched."""
    from huggingface_hub import HfApi

    return str(HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT).sha)


__all__ = ["COMPONENTS", "SHIPPED", "WEIGHTED", "Weights"]
