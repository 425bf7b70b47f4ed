# What Prometheus cannot tell of: the managed parts from outside. The ledger's own alerts are in ops/prometheus/rules.
resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = aws_kms_key.this.id
}

resource "aws_sns_topic_subscription" "email" {
  count     = var.alarm_email == "" ? 0 : 1
  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

locals {
  alarms = {
    postgres-disk = {
      description = "A tenth of the database's first volume is left, and it did not grow."
      namespace   = "AWS/RDS", metric = "FreeStorageSpace", statistic = "Minimum", comparison = "LessThanThreshold"
      threshold   = var.postgres_volume_gb * 1024 * 1024 * 1024 / 10, minutes = 5
      dimensions  = { DBInstanceIdentifier = aws_db_instance.this.identifier }
    }
    postgres-processor = {
      description = "The database has no processor time to spare: docs/DEPLOYING.md, sizing."
      namespace   = "AWS/RDS", metric = "CPUUtilization", statistic = "Average", comparison = "GreaterThanThreshold"
      threshold   = 80, minutes = 15
      dimensions  = { DBInstanceIdentifier = aws_db_instance.this.identifier }
    }
    postgres-queue = {
      description = "Writes wait for the database's volume."
      namespace   = "AWS/RDS", metric = "DiskQueueDepth", statistic = "Average", comparison = "GreaterThanThreshold"
      threshold   = 20, minutes = 10
      dimensions  = { DBInstanceIdentifier = aws_db_instance.this.identifier }
    }
    kafka-disk = {
      description = "A broker's volume is four fifths full, and did not grow."
      namespace   = "AWS/Kafka", metric = "KafkaDataLogsDiskUsed", statistic = "Maximum", comparison = "GreaterThanThreshold"
      threshold   = 80, minutes = 5
      dimensions  = { "Cluster Name" = aws_msk_cluster.this.cluster_name }
    }
    kafka-offline = {
      description = "Partitions have no leader: their lanes stand still."
      namespace   = "AWS/Kafka", metric = "OfflinePartitionsCount", statistic = "Maximum", comparison = "GreaterThanThreshold"
      threshold   = 0, minutes = 2
      dimensions  = { "Cluster Name" = aws_msk_cluster.this.cluster_name }
    }
    kafka-controller = {
      description = "Kafka has no controller."
      namespace   = "AWS/Kafka", metric = "ActiveControllerCount", statistic = "Average", comparison = "LessThanThreshold"
      threshold   = 0.1, minutes = 5
      dimensions  = { "Cluster Name" = aws_msk_cluster.this.cluster_name }
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  statistic           = each.value.statistic
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  period              = 60
  evaluation_periods  = each.value.minutes
  treat_missing_data  = "breaching"
  dimensions          = each.value.dimensions
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}
