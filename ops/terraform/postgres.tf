# RDS for Postgres, with a standby in another zone that has each commit before it counts. Not Aurora: what limits a ledger
# is one stream of log, which RDS writes to volumes at a fixed price; Aurora asks a price for each write, or a third more
# for the machine, and its readers are of no use here, as only the primary is read.
resource "aws_security_group" "postgres" {
  name        = "${var.name}-postgres"
  description = "Database"
  vpc_id      = aws_vpc.this.id
}

resource "aws_vpc_security_group_ingress_rule" "postgres_clients" {
  security_group_id            = aws_security_group.postgres.id
  description                  = "Services"
  referenced_security_group_id = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

resource "aws_db_subnet_group" "this" {
  name       = var.name
  subnet_ids = [for subnet in aws_subnet.data : subnet.id]
}

resource "aws_db_parameter_group" "this" {
  name_prefix = "${var.name}-"
  family      = "postgres${split(".", var.postgres_version)[0]}"

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  # The default; named, so that nobody turns it off: a commit that was acknowledged is there.
  parameter {
    name  = "synchronous_commit"
    value = "on"
  }

  # In MB: as in the embedded Postgres, a checkpoint each quarter of an hour rather than each few seconds under load.
  parameter {
    name  = "max_wal_size"
    value = "16384"
  }

  # A password that is set is sent as a SCRAM verifier, and statements are not logged.
  parameter {
    name  = "log_statement"
    value = "none"
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudwatch_log_group" "postgres" {
  name              = "/aws/rds/instance/${var.name}/postgresql"
  retention_in_days = var.log_days
  kms_key_id        = aws_kms_key.this.arn
}

resource "aws_db_instance" "this" {
  identifier     = var.name
  engine         = "postgres"
  engine_version = var.postgres_version
  instance_class = var.postgres_type
  multi_az       = true

  db_name             = "ledgerline"
  username            = "ledgerline"
  password_wo         = ephemeral.random_password.owner.result
  password_wo_version = var.secrets_version

  storage_type          = "gp3"
  allocated_storage     = var.postgres_volume_gb
  max_allocated_storage = 10 * var.postgres_volume_gb
  storage_encrypted     = true
  kms_key_id            = aws_kms_key.this.arn

  db_subnet_group_name   = aws_db_subnet_group.this.name
  vpc_security_group_ids = [aws_security_group.postgres.id]
  parameter_group_name   = aws_db_parameter_group.this.name
  ca_cert_identifier     = "rds-ca-rsa2048-g1"
  publicly_accessible    = false

  backup_retention_period   = var.backup_days
  copy_tags_to_snapshot     = true
  delete_automated_backups  = false
  deletion_protection       = true
  skip_final_snapshot       = false
  final_snapshot_identifier = "${var.name}-last"

  allow_major_version_upgrade = false
  auto_minor_version_upgrade  = false
  apply_immediately           = false

  enabled_cloudwatch_logs_exports = ["postgresql"]
  performance_insights_enabled    = true
  performance_insights_kms_key_id = aws_kms_key.this.arn

  depends_on = [aws_cloudwatch_log_group.postgres]

  lifecycle {
    prevent_destroy = true
  }
}
