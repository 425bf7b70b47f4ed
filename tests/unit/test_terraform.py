"""ops/terraform parses, is documented and pinned, keeps its secrets out, and agrees with ops/kubernetes and the code.

No package installs Terraform. So `terraform fmt -check`, and the check of every argument against the provider's schema,
were run by hand.
"""

import ipaddress
import re
from functools import cache
from typing import Any, Final

import hcl2
import pytest
import yaml

from cli.processes import SERVICES
from runtime.settings import REPOSITORY_ROOT
from tests.kubernetes_bench import OURS, of_kind
from tests.kubernetes_bench import variables as variables_of
from tools.terraform_costs import SIZES, table

FOLDER: Final = REPOSITORY_ROOT / "ops" / "terraform"
FILES: Final = sorted(FOLDER.glob("*.tf"))
README: Final = FOLDER / "README.md"


def plain(value: Any) -> Any:
    """Remove the quotes that python-hcl2 leaves around strings, and the marks that it adds."""
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items() if not str(key).startswith("__")}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value[1:-1] if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"' else value


@cache
def blocks(kind: str) -> list[dict[str, Any]]:
    """Return all blocks of a kind, from all files."""
    return [plain(block) for path in FILES for block in hcl2.loads(path.read_text()).get(kind, [])]


def resources(kind: str) -> dict[str, dict[str, Any]]:
    """Return the resources of a kind by name."""
    return {name: body for block in blocks("resource") if kind in block for name, body in block[kind].items()}


def variables() -> dict[str, dict[str, Any]]:
    return {name: body for block in blocks("variable") for name, body in block.items()}


def text() -> str:
    return "".join(path.read_text() for path in FILES)


def test_what_is_named_is_there() -> None:
    declared = {f"{kind}.{name}" for block in blocks("resource") for kind, named in block.items() for name in named}
    used = set(re.findall(r"(?<![\w.])(aws_\w+\.\w+)", text()))
    assert used <= declared
    assert set(re.findall(r"\bvar\.(\w+)", text())) == variables().keys()
    assert set(re.findall(r"\blocal\.(\w+)", text())) == {name for block in blocks("locals") for name in block}


def test_every_variable_and_output_explains_itself() -> None:
    for name, body in variables().items():
        assert len(body["description"]) > 20, name
        assert body["type"], name
    for block in blocks("output"):
        for name, body in block.items():
            assert body["description"], name
    rows = set(re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE))
    assert rows == variables().keys()


def test_providers_are_pinned() -> None:
    (settings,) = blocks("terraform")
    (providers,) = settings["required_providers"]
    assert providers.keys() == {"aws", "random", "tls"}
    for provider in providers.values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", provider["version"])


def test_no_password_is_in_the_state() -> None:
    """Ephemeral resources make the passwords, and write-only arguments pass them on, so the state never holds them."""
    assert not resources("random_password")
    for name, body in resources("aws_secretsmanager_secret_version").items():
        assert "secret_string_wo" in body, name
        assert "secret_string" not in body, name
    (database,) = resources("aws_db_instance").values()
    assert "password_wo" in database
    assert not database.keys() & {"password", "manage_master_user_password"}
    assert not re.search(r'(password|secret|token)\s*=\s*"[^"$]+"', text(), re.IGNORECASE)


@pytest.mark.parametrize("kind", ["aws_db_instance", "aws_msk_cluster"])
def test_what_holds_the_money_is_encrypted_and_not_destroyed_by_mistake(kind: str) -> None:
    (body,) = resources(kind).values()
    assert body["lifecycle"][0]["prevent_destroy"] is True
    assert "aws_kms_key.this.arn" in str(body)


def test_the_database_keeps_what_it_acknowledged() -> None:
    (database,) = resources("aws_db_instance").values()
    assert database["multi_az"] is True
    assert database["deletion_protection"] is True
    assert database["publicly_accessible"] is False
    (group,) = resources("aws_db_parameter_group").values()
    values = {parameter["name"]: parameter["value"] for parameter in group["parameter"]}
    assert (values["synchronous_commit"], values["rds.force_ssl"]) == ("on", "1")


def test_the_brokers_keep_what_they_acknowledged_and_speak_to_nobody_unknown() -> None:
    (cluster,) = resources("aws_msk_cluster").values()
    assert cluster["number_of_broker_nodes"] == 3
    assert cluster["client_authentication"][0]["unauthenticated"] is False
    assert cluster["encryption_info"][0]["encryption_in_transit"][0]["client_broker"] == "TLS"
    properties = dict(re.findall(r"^ +([\w.]+) = (\w+)$", (FOLDER / "kafka.tf").read_text(), re.MULTILINE))
    assert properties["min.insync.replicas"] == "2"
    assert properties["unclean.leader.election.enable"] == "false"
    assert properties["auto.create.topics.enable"] == "false"


def test_nothing_of_the_data_is_open_to_the_world() -> None:
    assert resources("aws_vpc_security_group_ingress_rule")
    for name, rule in resources("aws_vpc_security_group_ingress_rule").items():
        assert "referenced_security_group_id" in rule, name
        assert "cidr_ipv4" not in rule, name
    assert not resources("aws_vpc_security_group_egress_rule")


def test_every_service_has_its_own_login() -> None:
    services = re.search(r"services = toset\((\[.+\])\)", (FOLDER / "secrets.tf").read_text())
    assert services is not None
    assert set(yaml.safe_load(services[1])) == {service.name for service in SERVICES}


def test_the_manifests_find_the_secrets_that_are_made() -> None:
    made = {
        "ledgerline/postgres/": "aws_secretsmanager_secret.postgres", "AmazonMSK_ledgerline_": "kafka",
        "ledgerline/registry": "registry", "ledgerline/audit-key": "audit_key",
        "ledgerline/posting-key": "posting_key", "ledgerline/posting-public-key": "posting_public_key",
    }  # fmt: skip
    names = {
        resources("aws_secretsmanager_secret")[kind]["name"].replace("${var.name}", "ledgerline")
        for kind in ("postgres", "kafka", "registry", "audit_key", "posting_key", "posting_public_key")
    }
    assert {name.replace("${each.key}", "") for name in names} == set(made)
    asked = {
        entry["remoteRef"]["key"]
        for secret in of_kind("production", "ExternalSecret").values()
        for entry in secret["spec"]["data"]
    }
    assert all(any(key.startswith(beginning) for beginning in made) for key in asked)


def test_the_manifests_name_the_users_that_are_made() -> None:
    made = re.search(r'username = "(ledgerline-)\$\{each.key\}"', (FOLDER / "secrets.tf").read_text())
    assert made is not None
    for name in OURS:
        assert variables_of("production", name)["LEDGERLINE_KAFKA_SASL_USERNAME"] == made[1] + name


def test_the_manifests_let_through_to_where_the_data_is() -> None:
    network = ipaddress.ip_network(variables()["network"]["default"])
    data = list(network.subnets(new_prefix=18))[2]
    for name in ("to-kafka", "to-postgres"):
        (rule,) = of_kind("production", "NetworkPolicy")[name]["spec"]["egress"]
        assert rule["to"] == [{"ipBlock": {"cidr": str(data)}}]
    port = of_kind("production", "NetworkPolicy")["to-kafka"]["spec"]["egress"][0]["ports"][0]["port"]
    assert port == resources("aws_vpc_security_group_ingress_rule")["kafka_clients"]["to_port"]


def test_kubernetes_is_new_enough_for_the_manifests() -> None:
    assert float(variables()["kubernetes_version"]["default"]) >= 1.32


def test_every_alarm_reaches_somebody_and_silence_is_one() -> None:
    (alarm,) = resources("aws_cloudwatch_metric_alarm").values()
    assert alarm["alarm_actions"]
    assert alarm["treat_missing_data"] == "breaching"


def test_the_cost_table_is_computed() -> None:
    assert table() in README.read_text(), "run `python -m tools.terraform_costs`"
    defaults = {name: body.get("default") for name, body in variables().items()}
    small = SIZES["small"]
    assert (small.postgres_gb, small.broker_gb) == (defaults["postgres_volume_gb"], defaults["kafka_volume_gb"])
    assert (defaults["node_type"], defaults["kafka_type"]) == ("c7g.xlarge", "kafka.m7g.large")
    assert defaults["postgres_type"] == "db.m7g.xlarge"  # 4 vCPU
