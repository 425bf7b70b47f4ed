"""TLS of the API and of the metrics: what is served with it, and the sentences for files that cannot be used."""

import socket
import ssl
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import jsonschema
import pytest
import trustme
import yaml

from cli.configuration.rules import find_contradictions
from runtime.server_tls import ServerTls
from runtime.settings import REPOSITORY_ROOT, Settings
from streams.metrics import serve_metrics
from tests.command_line import run
from tests.kubernetes_bench import FOLDER, NAMES
from tests.kustomize import build, pod_of
from tests.unit.test_compose import CONTAINERS, compose_schema


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    folder = tmp_path_factory.mktemp("tls")
    made = authority.issue_cert("127.0.0.1")
    tls = ServerTls(folder / "certificate.pem", folder / "key.pem")
    made.cert_chain_pems[0].write_to_path(tls.certificate_file)
    made.private_key_pem.write_to_path(tls.key_file)
    return tls


def test_metrics_are_served_by_tls_alone_and_a_silent_connection_keeps_nobody_waiting(
    authority: trustme.CA, files: ServerTls
) -> None:
    port = serve_metrics("127.0.0.1", 0, lambda: None, files)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with socket.create_connection(("127.0.0.1", port)):  # this connection sends nothing
        for path in ("metrics", "livez", "readyz"):
            with urlopen(f"https://127.0.0.1:{port}/{path}", timeout=10, context=context) as answer:
                assert answer.status == 200
    with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urlopen(f"https://127.0.0.1:{port}/livez", timeout=10, context=ssl.create_default_context())
    with pytest.raises((URLError, ConnectionError, HTTPException)):
        urlopen(f"http://127.0.0.1:{port}/livez", timeout=10)


def test_files_that_cannot_serve_are_told_of(files: ServerTls, tmp_path: Path) -> None:
    other_key = tmp_path / "other-key.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(other_key)
    empty = tmp_path / "empty.pem"
    empty.touch()
    certificate, key = files.certificate_file, files.key_file
    cases = [
        ((certificate, key), None),
        ((certificate, None), "LEDGERLINE_TLS_CERTIFICATE_FILE is of no use alone: set LEDGERLINE_TLS_KEY_FILE"),
        ((None, key), "LEDGERLINE_TLS_KEY_FILE is of no use alone: set LEDGERLINE_TLS_CERTIFICATE_FILE"),
        ((certificate, other_key), "is not the unencrypted key of the certificate"),
        ((certificate, tmp_path / "nowhere"), "is not the unencrypted key of the certificate"),
        ((empty, key), "which holds no certificate"),
        ((tmp_path / "nowhere", key), "which cannot be read"),
    ]
    for (one, other), expected in cases:
        found = find_contradictions(Settings(home=tmp_path, tls_certificate_file=one, tls_key_file=other))
        told = [finding.sentence for finding in found if "TLS_" in finding.about]
        if expected is None:
            assert told == []
        else:
            assert len(told) == 1
            assert expected in told[0]


def test_up_says_that_it_has_no_tls(files: ServerTls, tmp_path: Path) -> None:
    variables = {
        "LEDGERLINE_HOME": str(tmp_path),
        "LEDGERLINE_TLS_CERTIFICATE_FILE": str(files.certificate_file),
        "LEDGERLINE_TLS_KEY_FILE": str(files.key_file),
    }
    assert "serves only this machine, without TLS" in run(variables, "up", code=1).stderr.replace("\n", " ")


# ------------------------------------------------------------------------------------------------ deployment

SERVICES_BY_TLS = {"LEDGERLINE_TLS_CERTIFICATE_FILE", "LEDGERLINE_TLS_KEY_FILE"}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def test_the_component_gives_each_service_its_certificate_and_asks_by_https(tmp_path: Path) -> None:
    components = FOLDER / "components"
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": [str(FOLDER / "overlays" / "production")],
                "components": [str(components / "tls"), str(components / "tls-monitoring")],
            }
        )
    )
    made = build(tmp_path)
    for name in NAMES:
        (pod,) = (pod_of(each) for each in made if each["metadata"]["name"] == name and pod_of(each) is not None)
        assert pod is not None
        (container,) = pod["containers"]
        told = {each["name"]: each.get("value") for each in container["env"]}
        assert told["LEDGERLINE_TLS_CERTIFICATE_FILE"] == "/etc/ledgerline/tls/tls.crt"
        assert told["LEDGERLINE_TLS_KEY_FILE"] == "/etc/ledgerline/tls/tls.key"
        (volume,) = (each for each in pod["volumes"] if each["name"] == "tls")
        assert volume["secret"]["secretName"] == f"ledgerline-{name}-tls"
        (mount,) = (each for each in container["volumeMounts"] if each["name"] == "tls")
        assert (mount["mountPath"], mount["readOnly"]) == ("/etc/ledgerline/tls", True)
        assert {container[probe]["httpGet"]["scheme"] for probe in PROBES} == {"HTTPS"}
    (monitor,) = (each["spec"] for each in made if each["kind"] == "PodMonitor")
    assert {endpoint["scheme"] for endpoint in monitor["podMetricsEndpoints"]} == {"https"}
    assert all("ca" in endpoint["tlsConfig"] for endpoint in monitor["podMetricsEndpoints"])


def test_the_compose_files_tell_each_service_of_its_certificate() -> None:
    override = yaml.safe_load((REPOSITORY_ROOT / "ops" / "docker" / "compose.tls.yml").read_text())
    jsonschema.validate(override, compose_schema())
    assert override["services"].keys() > NAMES
    for name in NAMES:
        container = override["services"][name]
        assert container["environment"].keys() == SERVICES_BY_TLS
        for path in container["environment"].values():
            assert Path(path).name in container["secrets"]
            assert Path(path).name in override["secrets"]
        # The TLS file's health check is that of docker-compose.yml, but by HTTPS.
        below = CONTAINERS[name]["healthcheck"]["test"][-1]
        address = below.partition("'http://")[2].partition("'")[0]
        assert f"'https://{address}'" in container["healthcheck"]["test"][-1]


def test_prometheus_asks_the_services_by_https_and_all_else_as_before() -> None:
    folder = REPOSITORY_ROOT / "ops" / "prometheus"
    by_tls = yaml.safe_load((folder / "prometheus-compose-tls.yml").read_text())
    (job,) = (each for each in by_tls["scrape_configs"] if each["job_name"] == "ledgerline")
    assert job.pop("scheme") == "https"
    assert job.pop("tls_config").keys() == {"ca_file", "server_name"}
    assert by_tls == yaml.safe_load((folder / "prometheus-compose.yml").read_text())
