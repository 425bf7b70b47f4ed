"""Find the images that the compose file, the Dockerfiles and the manifests name, and pin them by digest."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from domain.errors import LedgerlineError

# `FROM name:tag`, `image: name:tag`, and `ARG PYTHON=tag` of the Dockerfile whose FROM is python:${PYTHON}.
_NAMED: Final = re.compile(
    r"^(?P<before>\s*(?:- )?(?:image:|FROM)\s+)(?P<name>[a-z0-9][a-z0-9./-]*):(?P<tag>[\w.-]+)"
    r"(?P<digest>@sha256:[0-9a-f]{64})?(?P<after>\s.*)?$",
    re.MULTILINE,
)
_PYTHON: Final = re.compile(
    r"^(?P<before>ARG PYTHON=)(?P<tag>[\w.-]+)(?P<digest>@sha256:[0-9a-f]{64})?(?P<after>)$", re.MULTILINE
)
_BUILT_HERE: Final = frozenset({"ledgerline", "ledgerline-kafka"})
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ASK_SECONDS: Final = 60
# Each command prints the digest of a reference in a registry: the digest of the index over all platforms.
_CLIENTS: Final = (
    ("crane", "digest", "{}"),
    ("skopeo", "inspect", "--no-tags", "--format", "{{.Digest}}", "docker://{}"),
    ("docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", "{}"),
)


@dataclass(frozen=True, order=True)
class Image:
    """One third-party image, as a file names it."""

    name: str
    tag: str
    digest: str
    """`sha256:` and 64 hexadecimal digits; empty if the file names only the tag."""

    @property
    def version(self) -> str:
        """The tag, followed by the digest if there is one."""
        return f"{self.tag}@{self.digest}" if self.digest else self.tag


def files(root: Path) -> list[Path]:
    """Return the files that name images, sorted."""
    return sorted(
        (
            root / "docker-compose.yml",
            *(root / "ops" / "docker").glob("*Dockerfile"),
            *(root / "ops" / "kubernetes").glob("**/*.yaml"),
        )
    )


def references(root: Path) -> list[Image]:
    """Return the third-party images that the files name, each once, sorted."""
    return sorted({_image(match) for path in files(root) for match in _matches(path.read_text())})


def pin(root: Path, ask: Callable[[str], str]) -> list[str]:
    """Write after each tag the digest that `ask` returns for `name:tag`. Return a line for each changed digest."""
    told = []
    for path in files(root):
        text = path.read_text()
        pinned = text
        for match in _matches(text):
            image = _image(match)
            digest = ask(f"{image.name}:{image.tag}")
            if digest != image.digest:
                told.append(f"{path.relative_to(root)}: {image.name}:{image.tag} {image.digest or 'none'} -> {digest}")
                bare = match[0].replace(f"@{image.digest}", "") if image.digest else match[0]
                pinned = pinned.replace(match[0], bare.replace(f"{image.tag}", f"{image.tag}@{digest}", 1))
        path.write_text(pinned)
    return told


def ask_registry(reference: str) -> str:
    """Ask a registry for the digest of a reference, with crane, skopeo or docker. Raise LedgerlineError on failure."""
    clients = [client for client in _CLIENTS if shutil.which(client[0])]
    if not clients:
        raise LedgerlineError("crane, skopeo or docker with buildx is needed to ask a registry: install one of them.")
    client, *arguments = clients[0]
    command = [client, *(argument.replace("{}", reference) for argument in arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
    digest = answer.stdout.strip()
    if answer.returncode or not _DIGEST.fullmatch(digest):
        reason = (answer.stderr.strip() or digest or "it printed nothing").splitlines()[-1]
        raise LedgerlineError(f"{client} has no digest of {reference} ({reason}): is a registry within reach?")
    return digest


def _matches(text: str) -> Iterator[re.Match[str]]:
    yield from (match for match in _NAMED.finditer(text) if match["name"] not in _BUILT_HERE)
    yield from _PYTHON.finditer(text)


def _image(match: re.Match[str]) -> Image:
    name = match.groupdict().get("name") or "python"
    return Image(name, match["tag"], (match["digest"] or "").removeprefix("@"))
