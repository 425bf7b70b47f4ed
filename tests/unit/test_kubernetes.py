"""ops/kubernetes follows Kubernetes' schemas and agrees with the code on services, settings, lanes, times and flows.

Kustomize is not a Python package, so tests/kustomize.py renders the overlays. The real `kustomize build` gives the same
resources, except for the digests at the ends of generated names.
"""

import base64
import json
import re
from functools import cache
from importlib import resources as packaged
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft7Validator, ValidationError
from referencing import Registry
from referencing import Resource as Schema
from referencing.jsonschema import DRAFT7

from ops.kubernetes.__main__ import MANIFEST, manifest
from runtime.settings import REPOSITORY_ROOT, Settings
from runtime.watchdog import STOP_SECONDS_MAX
from tests.kubernetes_bench import (
    AGENTS,
    CUSTOM,
    FOLDER,
    NAMES,
    OURS,
    OVERLAYS,
    configuration,
    custom_resources,
    labels_of,
    of_kind,
    picked,
    pods,
    resources,
    variables,
    workloads,
)
from tests.kustomize import Resource

SECRETS: Final = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
# The oldest version with all features in use, such as a pod's number as a label, and the newest with schemas here.
VERSIONS: Final = ("1.32.0", kubernetes_validate.latest_version())


# ------------------------------------------------------------------------------------------------ schemas


SCHEMAS: Final = packaged.files(kubernetes_validate) / "kubernetes-json-schema"


@cache
def definitions(version: str) -> Registry[Any]:
    folder = SCHEMAS / f"v{version}-local-strict"
    contents = json.loads((folder / "_definitions.json").read_text())
    return Registry().with_resource("_definitions.json", Schema.from_contents(contents, DRAFT7)).crawl()


@cache
def validator(kind: str, api_version: str, version: str) -> Draft7Validator:
    """Return a strict validator, which refuses members that the schema does not have."""
    name = "-".join((kind.lower(), *api_version.split("/"))).replace(".k8s.io", "")
    schema = json.loads((SCHEMAS / f"v{version}-local-strict" / f"{name}.json").read_text())
    return Draft7Validator(schema, registry=definitions(version))


def validate(resource: Resource, version: str) -> None:
    validator(resource["kind"], resource["apiVersion"], version).validate(resource)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_follows_its_schema(overlay: str, version: str) -> None:
    judged = [each for each in resources(overlay) if each["kind"] not in CUSTOM]
    assert len(judged) > 30
    for resource in judged:
        validate(resource, version)


def test_the_schemas_refuse_what_is_wrong() -> None:
    wrong = json.loads(json.dumps(workloads("dev")["posting"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(ValidationError, match="readinesProbe"):
        validate(wrong, VERSIONS[0])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_two_resources_have_one_name(overlay: str) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in resources(overlay)]
    assert len(names) == len(set(names))


# ------------------------------------------------------------------------------------------------ services


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_service_of_the_table_runs(overlay: str) -> None:
    commands = {
        name: pod["containers"][0]["args"] for name, pod in pods(overlay).items() if name in OURS or "args" in pod
    }
    prepare = commands.pop("prepare")
    assert commands == {name: ["service", name] for name in NAMES}
    rights = ["--kafka-rights", "ledgerline-"] if overlay == "production" else []
    assert prepare == ["prepare", "--logins", "/etc/ledgerline/logins", *rights]
    assert workloads(overlay)["prepare"]["kind"] == "Job"


@pytest.mark.parametrize("name", sorted(OURS))
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_a_service_is_told_are_settings(overlay: str, name: str) -> None:
    told = {variable.removeprefix("LEDGERLINE_").lower(): value for variable, value in variables(overlay, name).items()}
    plain = {field: value for field, value in told.items() if field in Settings.model_fields and isinstance(value, str)}
    files = {field for field in told if field.removesuffix("_file") in SECRETS and field not in plain}
    derived = {field for field, value in told.items() if not isinstance(value, str)}
    assert told.keys() == plain.keys() | files | derived
    assert derived <= {"instance_id", "relay_instance"}
    settings = Settings.model_validate(plain | {file.removesuffix("_file"): "secret" for file in files})
    assert settings.make_kafka("broker:9092").make_client_options()
    assert "postgres_dsn_file" in files


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_agents_keep_their_names_and_relays_their_numbers(overlay: str) -> None:
    for name in AGENTS:
        assert workloads(overlay)[name]["kind"] == "StatefulSet"
        source = variables(overlay, name)["LEDGERLINE_INSTANCE_ID"]["valueFrom"]
        assert source == {"fieldRef": {"fieldPath": "metadata.name"}}
        assert re.fullmatch(Settings.model_fields["instance_id"].metadata[0].pattern, f"{name}-11")
    relay = workloads(overlay)["relay"]
    source = variables(overlay, "relay")["LEDGERLINE_RELAY_INSTANCE"]["valueFrom"]
    assert source == {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}
    assert str(relay["spec"]["replicas"]) == configuration(overlay).get("LEDGERLINE_RELAY_INSTANCES", "1")


def lanes(overlay: str) -> int:
    return int(configuration(overlay)["LEDGERLINE_LANES"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_agent_has_more_workers_than_there_are_lanes(overlay: str) -> None:
    for name in (*AGENTS, "relay"):
        assert workloads(overlay)[name]["spec"].get("replicas", 1) <= lanes(overlay), name


def test_the_autoscalers_never_ask_for_more_workers_than_there_are_lanes() -> None:
    scaler = of_kind("production", "HorizontalPodAutoscaler")["posting"]["spec"]
    (keda,) = (each["spec"] for each in custom_resources() if each["kind"] == "ScaledObject" and named(each, "posting"))
    assert 1 < scaler["minReplicas"] < scaler["maxReplicas"] <= lanes("production")
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (scaler["minReplicas"], scaler["maxReplicas"])
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == scaler["behavior"]
    assert scaler["scaleTargetRef"] == keda["scaleTargetRef"]
    assert workloads("production")["posting"]["apiVersion"] == scaler["scaleTargetRef"]["apiVersion"]


def test_the_autoscalers_of_the_worker_keep_one_that_stands_by() -> None:
    """One worker at a time publishes the outbox and sends intents, so a second must be there to take over."""
    scaler = of_kind("production", "HorizontalPodAutoscaler")["worker"]["spec"]
    (keda,) = (each["spec"] for each in custom_resources() if each["kind"] == "ScaledObject" and named(each, "worker"))
    assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"] <= lanes("production")
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (scaler["minReplicas"], scaler["maxReplicas"])
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == scaler["behavior"]
    assert scaler["scaleTargetRef"] == keda["scaleTargetRef"]
    assert "replicas" not in workloads("production")["worker"]["spec"], "an apply must not undo the autoscaler"


def named(resource: Resource, name: str) -> bool:
    return bool(resource["metadata"]["name"] == name)


def test_the_autoscaler_asks_for_lag_in_seconds_that_a_service_tells() -> None:
    """Kubernetes' autoscaler, prometheus-adapter's rule and KEDA's trigger scale by the same metric."""
    lag, processor = of_kind("production", "HorizontalPodAutoscaler")["posting"]["spec"]["metrics"]
    values = yaml.safe_load((FOLDER / "components" / "autoscaling" / "prometheus-adapter.yaml").read_text())
    (rule,) = values["rules"]["external"]
    assert rule["name"]["as"] == lag["external"]["metric"]["name"]
    series = re.match(r"\w+", rule["seriesQuery"])
    assert series is not None
    assert f"| `{series[0]}` | gauge | agent, partition |" in (REPOSITORY_ROOT / "docs" / "METRICS.md").read_text()
    (keda,) = (each for each in custom_resources() if each["kind"] == "ScaledObject" and named(each, "posting"))
    prometheus, cpu = keda["spec"]["triggers"]
    asked = rule["metricsQuery"].replace("<<.Series>>", series[0])
    assert prometheus["metadata"]["query"] == asked.replace("<<.LabelMatchers>>", 'namespace="ledgerline"')
    assert (prometheus["metricType"], prometheus["metadata"]["threshold"]) == (
        "Value",
        lag["external"]["target"]["value"],
    )
    assert cpu["metadata"]["value"] == str(processor["resource"]["target"]["averageUtilization"])


def test_the_autoscalers_do_not_flap() -> None:
    """Scaling up follows a load of a minute. Scaling down waits longer and goes slower than a move of lanes takes."""
    for name, scaler in of_kind("production", "HorizontalPodAutoscaler").items():
        down = scaler["spec"]["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] >= 300, name
        assert [policy["value"] for policy in down["policies"]] == [1]
        assert scaler["spec"]["metrics"][-1]["resource"]["name"] == "cpu"


# ------------------------------------------------------------------------------------------------ probes and stop times


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_where_the_service_answers(overlay: str, name: str) -> None:
    pod = pods(overlay)[name]
    (container,) = pod["containers"]
    (port,) = container["ports"]
    dockerfile = (REPOSITORY_ROOT / "ops" / "docker" / "Dockerfile").read_text()
    kind = "API" if name == "api" else "METRICS"
    assert f"LEDGERLINE_{kind}_PORT={port['containerPort']}" in dockerfile
    asked = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    assert {each["port"] for each in asked.values()} == {port["name"]}
    assert [asked[probe]["path"] for probe in ("startup", "liveness", "readiness")] == ["/livez", "/livez", "/readyz"]
    # A service that waits for a part is alive, however long it waits, and only /readyz reports the wait.


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_the_time_that_the_code_takes_to_stop(overlay: str, name: str) -> None:
    pod = pods(overlay)[name]
    pause = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod["terminationGracePeriodSeconds"] >= pause + STOP_SECONDS_MAX + 3
    assert (name == "api") == (pause > 0), "requests go on coming until the endpoints are known to be gone"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_lasting_workload_has_a_disruption_budget_and_is_spread(overlay: str) -> None:
    budgets = of_kind(overlay, "PodDisruptionBudget")
    for name in (NAMES | {"registry"}) & workloads(overlay).keys():
        spec = budgets[name]["spec"]
        assert spec["maxUnavailable"] == 1
        assert spec["selector"]["matchLabels"].items() <= labels_of(overlay, name).items()
        spread = pods(overlay)[name]["topologySpreadConstraints"]
        assert "kubernetes.io/hostname" in {each["topologyKey"] for each in spread}
        for each in spread:
            assert each["labelSelector"]["matchLabels"].items() <= labels_of(overlay, name).items()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_says_what_it_needs(overlay: str) -> None:
    for name, pod in pods(overlay).items():
        for container in pod["containers"]:
            wanted = container["resources"]
            assert wanted["requests"].keys() == {"cpu", "memory"}, name
            # A processor limit could pause a batch in its transaction, with lanes locked.
            assert wanted["limits"].keys() == {"memory"}, name


# ------------------------------------------------------------------------------------------------ least privilege


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_satisfies_the_restricted_standard(overlay: str) -> None:
    levels = of_kind(overlay, "Namespace")["ledgerline"]["metadata"]["labels"]
    assert levels["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in pods(overlay).items():
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {next(iter(volume.keys() - {"name"})) for volume in pod.get("volumes", [])} <= {
            "secret", "emptyDir", "projected", "configMap",
        }  # fmt: skip
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            if name in OURS | {"registry"}:
                assert context["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_has_a_token_of_kubernetes(overlay: str) -> None:
    accounts = of_kind(overlay, "ServiceAccount")
    assert accounts.keys() == OURS
    assert not any(account["automountServiceAccountToken"] for account in accounts.values())
    for name, pod in pods(overlay).items():
        assert pod["automountServiceAccountToken"] is False
        if name in OURS:
            assert pod["serviceAccountName"] == name


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_service_sees_no_secret_but_its_own(overlay: str, name: str) -> None:
    mounted = {
        re.sub(r"-[0-9a-f]{10}$", "", volume["secret"]["secretName"])
        for volume in pods(overlay)[name]["volumes"]
        if "secret" in volume
    }
    wanted = {f"ledgerline-{name}", f"ledgerline-{name}-kafka"}
    keys = {"posting": {"ledgerline-posting-key"}, "audit": {"ledgerline-posting-public-key"}}.get(name, set())
    if (overlay, name) == ("production", "audit"):
        keys |= {"ledgerline-audit-key"}
    assert mounted == wanted | keys


def test_prepare_sees_the_dsn_of_each_service_and_makes_its_login() -> None:
    (logins,) = (volume["projected"] for volume in pods("production")["prepare"]["volumes"] if "projected" in volume)
    assert {source["secret"]["items"][0]["path"]: source["secret"]["name"] for source in logins["sources"]} == {
        name: f"ledgerline-{name}" for name in NAMES
    }


def test_every_secret_of_production_comes_from_the_secrets_manager() -> None:
    wanted = {
        f"ledgerline-{name}{end}" for name in OURS for end in ("", "-kafka")
    } | {"ledgerline-registry", "ledgerline-audit-key"}  # fmt: skip
    wanted |= {"ledgerline-posting-key", "ledgerline-posting-public-key"}
    external = of_kind("production", "ExternalSecret")
    assert external.keys() == wanted
    assert not of_kind("production", "Secret")
    for name, secret in external.items():
        assert secret["spec"]["target"]["name"] == name
    (key,) = (each["secretKey"] for each in external["ledgerline-posting-kafka"]["spec"]["data"])
    assert configuration("production")["LEDGERLINE_KAFKA_SASL_PASSWORD_FILE"] == f"/etc/ledgerline/kafka/{key}"


def test_secrets_of_development_say_so() -> None:
    for name, secret in of_kind("dev", "Secret").items():
        decoded = [base64.b64decode(value).decode() for value in secret["data"].values()]
        assert any("development-only" in value for value in decoded), name


# ------------------------------------------------------------------------------------------------ metrics and rules


def test_the_rules_are_those_of_prometheus() -> None:
    assert MANIFEST.read_text() == manifest(), "run `python -m ops.kubernetes`"


def test_prometheus_finds_every_service_under_the_labels_of_its_rules() -> None:
    (monitor,) = (each["spec"] for each in custom_resources() if each["kind"] == "PodMonitor")
    ports = {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}
    assert picked("production", monitor["selector"]) == OURS
    for name in NAMES:
        assert {port["name"] for port in pods("production")[name]["containers"][0]["ports"]} <= ports
        assert labels_of("production", name)[monitor["jobLabel"]] == "ledgerline"
    for endpoint in monitor["podMetricsEndpoints"]:
        (relabeling,) = endpoint["relabelings"]
        assert relabeling["sourceLabels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_name"]
        assert relabeling["targetLabel"] == "service"


# ------------------------------------------------------------------------------------------------ one source


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_pinned_and_those_of_compose(overlay: str) -> None:
    compose = yaml.safe_load((REPOSITORY_ROOT / "docker-compose.yml").read_text())["services"]
    for name, pod in pods(overlay).items():
        (container,) = pod["containers"]
        image, _, tag = container["image"].partition("@")[0].rpartition(":")
        assert tag not in {"", "latest"}
        if name in OURS:
            assert image.endswith("ledgerline")
        elif name == "kafka":
            assert f"FROM {container['image']}\n" in (REPOSITORY_ROOT / "ops/docker/kafka.Dockerfile").read_text()
        else:
            assert container["image"] == compose[name]["image"]


def test_the_registrys_database_is_made_by_the_same_statements() -> None:
    ours = (FOLDER / "components" / "data-stores" / "registry.sql").read_text()
    assert ours == (REPOSITORY_ROOT / "ops" / "docker" / "registry.sql").read_text()
