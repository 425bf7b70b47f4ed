"""The certificate that a Ledgerline process shows to HTTPS clients."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Two PEM files: the certificate with its intermediate certificates, and its key, which is not encrypted."""

    certificate_file: Path
    key_file: Path
