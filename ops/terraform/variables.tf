variable "name" {
  description = "Name of everything that is made, and of the Kubernetes namespace."
  type        = string
  default     = "ledgerline"
}

variable "region" {
  description = "AWS region; the external-secrets component and the image of ops/kubernetes/overlays/production name it too."
  type        = string
  default     = "eu-central-1"
}

variable "network" {
  description = "Address range of the VPC, a /16: the first half is split into public and private subnets, the third quarter into those of the data."
  type        = string
  default     = "10.20.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.network)) && endswith(var.network, "/16")
    error_message = "Name a /16, such as 10.20.0.0/16."
  }
}

variable "operator_networks" {
  description = "Address ranges from which Kubernetes' API may be reached from outside; none means from within the VPC only."
  type        = list(string)
  default     = []

  validation {
    condition     = !contains(var.operator_networks, "0.0.0.0/0")
    error_message = "Name your own networks; the whole world is none of them."
  }
}

variable "kubernetes_version" {
  description = "Release of Kubernetes; the manifests need 1.32 or later."
  type        = string
  default     = "1.34"
}

variable "node_type" {
  description = "EC2 type of the nodes that the services run on. Of the arm64 kind, as the image must then be."
  type        = string
  default     = "c7g.xlarge"
}

variable "nodes" {
  description = "Fewest and most nodes; three keep one in each zone."
  type        = object({ min = number, max = number })
  default     = { min = 3, max = 6 }

  validation {
    condition     = var.nodes.min >= 3 && var.nodes.max >= var.nodes.min
    error_message = "At least three nodes, one in each zone, and no fewer at most than at least."
  }
}

variable "kafka_version" {
  description = "MSK's release of Kafka, with KRaft."
  type        = string
  default     = "4.1.x.kraft"
}

variable "kafka_type" {
  description = "MSK type of the three brokers."
  type        = string
  default     = "kafka.m7g.large"
}

variable "kafka_volume_gb" {
  description = "First size of each broker's volume; it grows by itself up to four times this."
  type        = number
  default     = 250
}

variable "postgres_version" {
  description = "RDS' release of Postgres, 15 or later."
  type        = string
  default     = "18"
}

variable "postgres_type" {
  description = "RDS type of the database and of its standby."
  type        = string
  default     = "db.m7g.xlarge"
}

variable "postgres_volume_gb" {
  description = "First size of the database's volume; it grows by itself up to ten times this. From 400 on gp3 is striped, which the log's stream needs."
  type        = number
  default     = 400
}

variable "backup_days" {
  description = "Days that the database can be restored to any second of. A restore is brought up to date from ledger.journal (ops/runbooks/restore.md)."
  type        = number
  default     = 14
}

variable "log_days" {
  description = "Days that logs of EKS, MSK and RDS are kept in CloudWatch."
  type        = number
  default     = 90
}

variable "secrets_version" {
  description = "Raise it to make all passwords anew, the database owner's too; then run prepare, then restart the services. The audit key stays."
  type        = number
  default     = 1
}

variable "alarm_email" {
  description = "Who hears of alarms, once they have confirmed it; empty means nobody."
  type        = string
  default     = ""
}
