"""The network policies of ops/kubernetes allow exactly the flows that docs/ARCHITECTURE.md draws."""

from ipaddress import ip_address, ip_network
from typing import Final

import pytest

from tests.kubernetes_bench import OURS, OVERLAYS, of_kind, picked, pods, workloads
from tests.kustomize import Resource

SERVICES_SPEAK_TO: Final = {"kafka", "postgres", "registry"}


def peers(overlay: str, entries: list[Resource], policy: str) -> set[str]:
    found: set[str] = set()
    for entry in entries:
        if "ipBlock" in entry:
            found.add(policy.removeprefix("to-"))
        elif "namespaceSelector" in entry:
            found |= {f"{key}={value}" for key, value in entry["namespaceSelector"]["matchLabels"].items()}
        else:
            found |= picked(overlay, entry["podSelector"])
    return found


def flows(overlay: str) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Return two sets of (from, to): the flows that policies let out, and the flows that they let in."""
    out, into = set(), set()
    for name, policy in of_kind(overlay, "NetworkPolicy").items():
        chosen = picked(overlay, policy["spec"]["podSelector"])
        for rule in policy["spec"].get("egress", []):
            out |= {(pod, peer) for pod in chosen for peer in peers(overlay, rule["to"], name)}
        for rule in policy["spec"].get("ingress", []):
            into |= {(peer, pod) for pod in chosen for peer in peers(overlay, rule["from"], name)}
    return out, into


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_what_the_architecture_draws_may_flow(overlay: str) -> None:
    out, into = flows(overlay)
    names = "kubernetes.io/metadata.name=kube-system"
    stores = {(service, store) for service in OURS for store in SERVICES_SPEAK_TO} | {("registry", "postgres")}
    assert {flow for flow in out if flow[1] != names} == stores | {("worker", "world")}
    assert {pod for pod, peer in out if peer == names} == workloads(overlay).keys()
    inside = {(one, other) for one, other in stores if other in workloads(overlay)}
    outside = {("ledgerline/client=true", "api")} | {("kubernetes.io/metadata.name=monitoring", name) for name in OURS}
    assert into == inside | outside


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_flows_that_no_policy_allows(overlay: str) -> None:
    nothing = of_kind(overlay, "NetworkPolicy")["nothing"]["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


CLOSED: Final = (
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",  # noqa: S104
    "192.0.0.8",
    "192.168.1.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:10.0.0.1",
    "64:ff9b::a00:1", "2001::1", "2002:a00:1::1", "fc00::1", "fd00:ec2::254", "fe80::1", "ff02::1",
)  # fmt: skip
OPEN: Final = ("1.1.1.1", "93.184.215.14", "172.32.0.1", "192.169.0.1", "223.255.255.255", "2606:4700::1111")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_outside_calls_reach_public_addresses_by_https_and_nothing_private(overlay: str) -> None:
    """The worker's own guard refuses private addresses. The policy holds too if that guard has a fault."""
    (rule,) = of_kind(overlay, "NetworkPolicy")["to-world"]["spec"]["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 443}]
    blocks = [
        (ip_network(entry["ipBlock"]["cidr"]), [ip_network(each) for each in entry["ipBlock"]["except"]])
        for entry in rule["to"]
    ]
    # Kubernetes refuses an exception that is not inside its block; a version of the address that differs is outside.
    assert all(
        each.version == whole.version and whole.supernet_of(each)  # type: ignore[arg-type]
        for whole, excepted in blocks
        for each in excepted
    )
    reached = {
        address
        for address in (*CLOSED, *OPEN)
        for whole, excepted in blocks
        if ip_address(address) in whole and not any(ip_address(address) in each for each in excepted)
    }
    assert reached == set(OPEN)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_lead_to_pods(overlay: str) -> None:
    for name, service in of_kind(overlay, "Service").items():
        assert picked(overlay, {"matchLabels": service["spec"]["selector"]}) == {name}
        known = {port["name"] for port in pods(overlay)[name]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= known
    for name, workload in workloads(overlay).items():
        if workload["kind"] == "StatefulSet":
            assert of_kind(overlay, "Service")[name]["spec"]["clusterIP"] == "None"
            assert workload["spec"]["serviceName"] == name
