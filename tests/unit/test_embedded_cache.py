"""Each part is built once for each pom.xml, by one process at a time. A failure is one sentence that names a log."""

import threading
from pathlib import Path

import pytest

from ops.embedded import EmbeddedError
from ops.embedded.cache import KAFKA, REGISTRY, Cache, Recipe
from ops.embedded.errors import CancelledError

BUILDS = 'echo "a build" >> "$0.calls"; mkdir -p target/product && echo jar > target/product/a.jar'
FAILS = 'echo "[ERROR] Could not find artifact"; exit 1'
HANGS = "exec sleep 600"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    pom = tmp_path / "pom.xml"
    pom.write_text("<project/>")
    return Recipe("thing", pom, "target/product", "small", "LEDGERLINE_THING_URL")


def install_maven(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put stand-ins for mvn and java at the front of PATH, and return the path of mvn."""
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    for name, text in (("mvn", script), ("java", "echo 'openjdk version \"21.0.1\"' >&2")):
        (binaries / name).write_text(f"#!/bin/sh\n{text}\n")
        (binaries / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:/usr/bin:/bin")
    return binaries / "mvn"


def test_a_part_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    maven = install_maven(tmp_path, monkeypatch, BUILDS)
    reports: list[str] = []
    place = Cache(tmp_path / "cache", reports.append).get(recipe)
    assert (place / "a.jar").read_text() == "jar\n"
    assert Cache(tmp_path / "cache", reports.append).get(recipe) == place
    assert Path(f"{maven}.calls").read_text().count("a build") == 1
    assert reports[0] == "thing: fetching with Maven, the first time only (small)"


def test_a_changed_pom_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    install_maven(tmp_path, monkeypatch, BUILDS)
    cache = Cache(tmp_path / "cache", lambda _message: None)
    before = cache.get(recipe)
    recipe.pom.write_text("<project><!-- newer --></project>")
    assert cache.get(recipe) != before


def test_two_that_ask_at_once_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    maven = install_maven(tmp_path, monkeypatch, BUILDS)
    places: list[Path] = []
    threads = [
        threading.Thread(target=lambda: places.append(Cache(tmp_path / "cache", lambda _message: None).get(recipe)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(places) == 4
    assert len(set(places)) == 1
    assert Path(f"{maven}.calls").read_text().count("a build") == 1


def test_a_failed_build_names_its_log_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    install_maven(tmp_path, monkeypatch, FAILS)
    cache = Cache(tmp_path / "cache", lambda _message: None)
    log = tmp_path / "cache" / "thing-build.log"
    with pytest.raises(EmbeddedError) as caught:
        cache.get(recipe)
    assert str(caught.value) == (
        "The build of thing with Maven failed with exit code 1 ([ERROR] Could not find artifact): "
        f"read {log} and try again."
    )
    install_maven(tmp_path, monkeypatch, BUILDS)
    assert cache.get(recipe).exists()


def test_a_build_can_be_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    install_maven(tmp_path, monkeypatch, HANGS)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(CancelledError):
        Cache(tmp_path / "cache", lambda _message: None, cancelled).get(recipe)


def test_without_maven_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError) as caught:
        Cache(tmp_path / "cache", lambda _message: None).get(recipe)
    assert str(caught.value) == (
        "Maven is needed once to fetch thing: install it (`apt-get install maven`), or give the address of a "
        "running one in LEDGERLINE_THING_URL."
    )


def test_the_two_recipes_name_files_that_exist() -> None:
    assert KAFKA.pom.exists()
    assert REGISTRY.pom.exists()
