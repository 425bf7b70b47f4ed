"""Prometheus and its exporters come from PATH or from Debian, unpacked once. If neither works, one sentence says so."""

from pathlib import Path

import pytest

from ops.embedded import EmbeddedError
from ops.observing.exporters import with_stated_encryption
from ops.observing.programs import PROMETHEUS, PROMTOOL, Programs

# Stands in for apt-get: `update` does nothing, `download PACKAGE` leaves an archive.
APT = 'echo "$@" >> "$0.calls"; case "$*" in *download*) touch "a package.deb";; esac'
# Stands in for dpkg: `--extract ARCHIVE FOLDER` unpacks two programs.
DPKG = 'mkdir -p "$3/usr/bin" && touch "$3/usr/bin/prometheus" "$3/usr/bin/promtool"'


def install(folder: Path, scripts: dict[str, str]) -> str:
    """Make programs with these names, and return their folder for use as PATH."""
    binaries = folder / "bin"
    binaries.mkdir()
    for name, text in scripts.items():
        (binaries / name).write_text(f"#!/bin/sh\n{text}\n")
        (binaries / name).chmod(0o755)
    return str(binaries)


def programs(folder: Path, search_path: str) -> Programs:
    return Programs(folder / "cache", lambda _message: None, search_path=search_path)


def test_what_the_machine_has_is_used(tmp_path: Path) -> None:
    path = install(tmp_path, {"prometheus": "", "apt-get": "exit 1", "dpkg": "exit 1"})
    assert programs(tmp_path, path).find(PROMETHEUS) == Path(path) / "prometheus"


def test_a_package_is_fetched_once_for_all_its_programs(tmp_path: Path) -> None:
    path = install(tmp_path, {"apt-get": APT, "dpkg": DPKG})
    for program, name in ((PROMETHEUS, "prometheus"), (PROMTOOL, "promtool")):
        found = programs(tmp_path, path).find(program)
        assert found == tmp_path / "cache" / "debian-prometheus" / "usr" / "bin" / name
        assert found.exists()
    calls = (Path(path) / "apt-get.calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == ["update", "prometheus"]
    assert not (tmp_path / "cache" / "debian-prometheus.build").exists()


def test_a_failed_fetch_names_its_log_and_is_tried_again(tmp_path: Path) -> None:
    path = install(tmp_path, {"apt-get": "echo 'E: no such package'; exit 100", "dpkg": DPKG})
    for _ in range(2):
        with pytest.raises(EmbeddedError, match=r"Fetching Debian's prometheus .*debian-prometheus\.log"):
            programs(tmp_path, path).find(PROMETHEUS)
    assert not (tmp_path / "cache" / "debian-prometheus").exists()


def test_without_apt_it_is_said_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"^prometheus is not on the PATH and .*: install it, or add .* to PATH\.$"):
        programs(tmp_path, install(tmp_path, {})).find(PROMTOOL)


@pytest.mark.parametrize(
    ("dsn", "stated"),
    [
        ("postgresql://a:b@h:1/d", "postgresql://a:b@h:1/d?sslmode=disable"),
        ("postgresql://a:b@h:1/d?connect_timeout=3", "postgresql://a:b@h:1/d?connect_timeout=3&sslmode=disable"),
        ("postgresql://a:b@h:1/d?sslmode=verify-full", "postgresql://a:b@h:1/d?sslmode=verify-full"),
        ("host=h dbname=d", "host=h dbname=d"),
    ],
)
def test_the_exporters_driver_is_told_how_libpq_would_connect(dsn: str, stated: str) -> None:
    assert with_stated_encryption(dsn) == stated
