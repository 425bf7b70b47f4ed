# Each service has a login of its own at Postgres and at Kafka. Passwords are made here, written to where they are kept,
# and are in no state or plan (ephemeral resources, write-only arguments). The logins of Postgres are made by `prepare`
# from these very DSNs. Where an apply stops in between, raise secrets_version and apply again.
locals {
  services = toset(["api", "posting", "relay", "worker", "reconciliation", "audit"])
  # Who prepares owns the database.
  clients = setunion(local.services, ["prepare"])
  address = "${aws_db_instance.this.endpoint}/ledgerline?sslmode=verify-full&sslrootcert=/etc/ledgerline/certificates/postgres-ca.pem"
}

ephemeral "random_password" "owner" {
  length  = 40
  special = false
}

ephemeral "random_password" "postgres" {
  for_each = local.services
  length   = 40
  special  = false
}

ephemeral "random_password" "kafka" {
  for_each = local.clients
  length   = 40
  special  = false
}

ephemeral "random_password" "registry" {
  length  = 40
  special = false
}

# Signs audit's checkpoints. It is made once: another key would make those that are signed already hard to check.
ephemeral "tls_private_key" "audit" {
  algorithm = "ED25519"
}

# Signs posting's heads. Its halves are written by one apply, once; a later apply has another key and writes neither.
ephemeral "tls_private_key" "posting" {
  algorithm = "ED25519"
}

resource "aws_secretsmanager_secret" "postgres" {
  for_each                = local.clients
  name                    = "${var.name}/postgres/${each.key}"
  description             = "DSN of ${each.key}"
  kms_key_id              = aws_kms_key.this.arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "postgres" {
  for_each                 = local.services
  secret_id                = aws_secretsmanager_secret.postgres[each.key].id
  secret_string_wo         = "postgresql://ledgerline_${each.key}_login:${ephemeral.random_password.postgres[each.key].result}@${local.address}"
  secret_string_wo_version = var.secrets_version
}

resource "aws_secretsmanager_secret_version" "owner" {
  secret_id                = aws_secretsmanager_secret.postgres["prepare"].id
  secret_string_wo         = "postgresql://${aws_db_instance.this.username}:${ephemeral.random_password.owner.result}@${local.address}"
  secret_string_wo_version = var.secrets_version
}

# MSK wants this beginning of the name, and this shape.
resource "aws_secretsmanager_secret" "kafka" {
  for_each                = local.clients
  name                    = "AmazonMSK_${var.name}_${each.key}"
  description             = "Kafka user of ${each.key}"
  kms_key_id              = aws_kms_key.this.arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "kafka" {
  for_each  = local.clients
  secret_id = aws_secretsmanager_secret.kafka[each.key].id
  secret_string_wo = jsonencode({
    username = "ledgerline-${each.key}"
    password = ephemeral.random_password.kafka[each.key].result
  })
  secret_string_wo_version = var.secrets_version
}

data "aws_iam_policy_document" "kafka_secret" {
  for_each = local.clients

  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [aws_secretsmanager_secret.kafka[each.key].arn]

    principals {
      type        = "Service"
      identifiers = ["kafka.amazonaws.com"]
    }
  }
}

resource "aws_secretsmanager_secret_policy" "kafka" {
  for_each   = local.clients
  secret_arn = aws_secretsmanager_secret.kafka[each.key].arn
  policy     = data.aws_iam_policy_document.kafka_secret[each.key].json
}

resource "aws_secretsmanager_secret" "registry" {
  name                    = "${var.name}/registry"
  description             = "Where the Schema Registry keeps its schemas"
  kms_key_id              = aws_kms_key.this.arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "registry" {
  secret_id = aws_secretsmanager_secret.registry.id
  secret_string_wo = jsonencode({
    url      = "jdbc:postgresql://${aws_db_instance.this.endpoint}/registry?sslmode=require"
    username = "registry"
    password = ephemeral.random_password.registry.result
  })
  secret_string_wo_version = var.secrets_version
}

resource "aws_secretsmanager_secret" "audit_key" {
  name                    = "${var.name}/audit-key"
  description             = "Ed25519 key that signs checkpoints"
  kms_key_id              = aws_kms_key.this.arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "audit_key" {
  secret_id                = aws_secretsmanager_secret.audit_key.id
  secret_string_wo         = ephemeral.tls_private_key.audit.private_key_pem_pkcs8
  secret_string_wo_version = 1
}

resource "aws_secretsmanager_secret" "posting_key" {
  name                    = "${var.name}/posting-key"
  description             = "Ed25519 key that posting signs heads with"
  kms_key_id              = aws_kms_key.this.arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "posting_key" {
  secret_id                = aws_secretsmanager_secret.posting_key.id
  secret_string_wo         = ephemeral.tls_private_key.posting.private_key_pem_pkcs8
  secret_string_wo_version = 1
}

resource "aws_secretsmanager_secret" "posting_public_key" {
  name                    = "${var.name}/posting-public-key"
  description             = "Public half of posting's key, for audit"
  kms_key_id              = aws_kms_key.this.arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "posting_public_key" {
  secret_id                = aws_secretsmanager_secret.posting_public_key.id
  secret_string_wo         = ephemeral.tls_private_key.posting.public_key_pem
  secret_string_wo_version = 1
}
