output "kafka_bootstrap" {
  description = "LEDGERLINE_KAFKA_BOOTSTRAP of the production overlay."
  value       = aws_msk_cluster.this.bootstrap_brokers_sasl_scram
}

output "postgres_address" {
  description = "Host and port of the database; the DSNs are in Secrets Manager."
  value       = aws_db_instance.this.endpoint
}

output "data_network" {
  description = "Where brokers and database are: the ipBlock of the network policies to-kafka and to-postgres."
  value       = local.data_network
}

output "image_repository" {
  description = "newName of the image in the production overlay."
  value       = aws_ecr_repository.this.repository_url
}

output "cluster_name" {
  description = "For `aws eks update-kubeconfig --name`."
  value       = aws_eks_cluster.this.name
}

output "alarm_topic" {
  description = "SNS topic that alarms go to."
  value       = aws_sns_topic.alarms.arn
}
