"""Artifacts: directories of files that are written whole or not at all, and checked when read.

    policy/
      manifest.json      kind, metadata, SHA-256 and size of every file, and of the manifest itself
      model.safetensors  tensors
      config.json        JSON

`save_artifact` fills a temporary sibling, flushes it to the disk and renames it into place, so a kill
or a full disk at any moment leaves the previous artifact as it was. Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robot_rl.errors import DataError

if TYPE_CHECKING:  # a robot's guard reads its limits here and needs no torch
    import torch

MANIFEST = "manifest.json"
TENSORS = ".safetensors"
FORMAT_VERSION = 1

Content = bytes | Mapping[str, Any] | list[Any]
"""Of a file: raw bytes; name -> tensor or array (the file's name ends in `.safetensors`); else JSON."""


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says while `path` is written into one line with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"disk full while writing {path}; free space and resume") from error
        raise DataError(f"cannot write {path}: {error.strerror or error}; check path and rights") from error


def sync_directory(path: Path) -> None:
    """Flush a directory's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_synced(path: Path, *parts: bytes | memoryview) -> None:
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def atomic_write(path: str | Path, *parts: bytes | memoryview) -> None:
    """Write `parts` in turn to `path` so that, whatever happens, the file is either the old or the new one.

    One writer a path: the temporary name is fixed, so that the next write removes a crashed one's rest.

    Raises:
        DataError: the disk is full or the place cannot be written; `path` is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_synced(temporary, *parts)
            temporary.replace(path)
            sync_directory(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


@dataclass(frozen=True)
class Artifact:
    """A checked artifact. Files are read when asked for."""

    path: Path
    kind: str
    metadata: Mapping[str, Any]
    files: tuple[str, ...]

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of a safetensors file, on the CPU."""
        import safetensors.torch

        return safetensors.torch.load_file(self._file(name))

    def json(self, name: str) -> Any:
        """The value of a JSON file."""
        return json.loads(self._file(name).read_text(encoding="utf-8"))

    def bytes(self, name: str) -> bytes:
        """A file as it is."""
        return self._file(name).read_bytes()

    def _file(self, name: str) -> Path:
        if name not in self.files:
            raise DataError(f"artifact {self.path} has no file {name!r}; it has {', '.join(self.files)}")
        return self.path / name


def save_artifact(
    path: str | Path, kind: str, files: Mapping[str, Content], metadata: Mapping[str, Any]
) -> None:
    """Write an artifact, replacing an older one at `path` only when the new one is complete.

    Args:
        path: the artifact's directory.
        kind: what it is, e.g. `policy`, `world_model`, `reward_model`, `checkpoint`.
        files: plain file name -> content.
        metadata: JSON-able facts that a loader checks or shows (task, schema, versions ...).

    Raises:
        DataError: the disk is full or the place cannot be written; an older artifact is unchanged.
    """
    path = Path(path)
    encoded = {name: _encode(name, content) for name, content in files.items()}
    manifest = {
        "format": FORMAT_VERSION,
        "kind": kind,
        "metadata": dict(metadata),
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in encoded.items()
        },
    }
    manifest["sha256"] = _manifest_hash(manifest)
    encoded[MANIFEST] = json.dumps(manifest, indent=2, sort_keys=True).encode()
    new, old = _new(path), _old(path)
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() and old.exists():  # a replacement was killed between its two renames
            old.rename(path)
        for leftover in (new, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        try:
            new.mkdir()
            for name, data in encoded.items():
                _write_synced(new / name, data)
            sync_directory(new)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        # A directory cannot be renamed over a full one: the old one steps aside, and `load_artifact`
        # looks there too, so that there is an artifact to read at every moment.
        if path.exists():
            path.rename(old)
        new.rename(path)
        sync_directory(path.parent)
        shutil.rmtree(old, ignore_errors=True)


def load_artifact(path: str | Path, kind: str, expect: Mapping[str, Any] | None = None) -> Artifact:
    """Open an artifact after checking every file's hash, its kind and the metadata in `expect`.

    Raises:
        DataError: missing, damaged, or of another kind, format or metadata; one line with the remedy.
    """
    path = Path(path)
    place = _place(path)
    manifest = _read_manifest(place)
    if manifest["kind"] != kind:
        raise DataError(f"artifact {path} is a {manifest['kind']!r}; expected a {kind!r}: give its path")
    for name, entry in manifest["files"].items():
        _check_file(place / name, entry)
    metadata = manifest["metadata"]
    for key, wanted in json.loads(json.dumps(dict(expect or {}))).items():
        found = metadata.get(key)
        if found != wanted:
            raise DataError(
                f"artifact {path} has {key} {found!r}; expected {wanted!r}: "
                f"give one made for {wanted!r}, or set {key} to {found!r}"
            )
    return Artifact(place, kind, metadata, tuple(manifest["files"]))


def peek_artifact(path: str | Path) -> tuple[str, Mapping[str, Any]]:
    """Kind and metadata of an artifact of which neither is known; its files are not looked at.

    Raises:
        DataError: missing or damaged; one line with the remedy.
    """
    manifest = _read_manifest(_place(Path(path)))
    return manifest["kind"], manifest["metadata"]


def _place(path: Path) -> Path:
    """Where the artifact is to be read: beside `path`, if a replacement was killed between its renames."""
    return path if path.exists() or not _old(path).exists() else _old(path)


def _new(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _encode(name: str, content: Content) -> bytes:
    if not _is_plain(name):
        raise ValueError(f"artifact file name {name!r}; expected a plain name other than {MANIFEST}")
    if isinstance(content, bytes):
        return content
    if name.endswith(TENSORS):
        if not isinstance(content, Mapping):
            raise TypeError(f"{name}: expected a mapping of tensors, got {type(content).__name__}")
        import safetensors.torch

        return safetensors.torch.save({key: _tensor(value) for key, value in content.items()})
    return json.dumps(content, indent=2, sort_keys=True).encode()


def _is_plain(name: str) -> bool:
    return name == Path(name).name and name not in ("", ".", "..", MANIFEST)


def _tensor(value: Any) -> torch.Tensor:
    """A contiguous copy on the CPU that shares memory with no other (safetensors refuses tied ones)."""
    import torch

    tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else torch.as_tensor(value)
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    facts = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not path.is_dir():
        raise DataError(f"no artifact at {path}: check the path, or run the stage that writes it")
    if not file.is_file():
        raise DataError(f"{path} is no artifact: it lacks {MANIFEST}; give the path of an artifact")
    remedy = "it was changed or damaged: restore it, or make the artifact again"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        sound = manifest["sha256"] == _manifest_hash(manifest) and all(map(_is_plain, manifest["files"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({type(error).__name__}); {remedy}") from error
    if not sound:
        raise DataError(f"{file} does not match its own SHA-256; {remedy}")
    if manifest["format"] != FORMAT_VERSION:
        raise DataError(
            f"{file} has format {manifest['format']}; expected {FORMAT_VERSION}: "
            "use the version of robot-rl that wrote it, or make the artifact again"
        )
    return dict(manifest)


def _check_file(file: Path, entry: Mapping[str, Any]) -> None:
    if not file.is_file():
        raise DataError(f"{file} is missing; its {MANIFEST} names it: restore it, or make the artifact again")
    remedy = "the file was changed or damaged: restore it, or make the artifact again"
    size = file.stat().st_size
    if size != entry["size"]:
        raise DataError(f"{file} has {size} bytes; expected {entry['size']}; {remedy}")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != entry["sha256"]:
        raise DataError(f"{file} has SHA-256 {found[:12]}; expected {entry['sha256'][:12]}; {remedy}")
