"""The certificate that a process of ours shows to those who ask it by HTTPS."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files: the certificate with those between it and its authority, and its key, which is not encrypted."""

    certificate_file: Path
    key_file: Path
