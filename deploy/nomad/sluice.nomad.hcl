# Sluice on Nomad: a group for each stage, which scales by itself.
#
#   nomad job run -var image=registry.example.com/sluice -var tag=v1 sluice.nomad.hcl
#   nomad job scale sluice dedup 3
#
# Services are registered with Nomad itself; no Consul is needed. NATS is found the same way, as the service
# that nats.nomad.hcl registers, or named with -var nats=nats://…. Lanes move to new instances, and from instances
# that stop, without any help: a stop is a drain, for which kill_timeout leaves time.

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

variable "image" {
  type        = string
  description = "Images are IMAGE/SERVICE:TAG, as deploy/Dockerfile makes them"
  default     = "sluice"
}

variable "tag" {
  type    = string
  default = "local"
}

variable "nats" {
  type        = string
  description = "URLs of NATS, separated by commas; empty: the service nats of Nomad"
  default     = ""
}

variable "otlp" {
  type        = string
  description = "Where traces go, such as http://jaeger.example.com:4317; empty: nowhere"
  default     = ""
}

locals {
  # What a stage takes, in MHz and MB, and between how many instances it may be scaled. The memory of dedup and join
  # is that of the keys and rows that they hold: see docs/scaling.md.
  groups = {
    control  = { cpu = 200, memory = 256, count = 1, max = 2 }
    ingestor = { cpu = 1000, memory = 1024, count = 1, max = 16 }
    dedup    = { cpu = 1000, memory = 2048, count = 1, max = 16 }
    join     = { cpu = 1000, memory = 2048, count = 1, max = 16 }
    sink     = { cpu = 1000, memory = 2048, count = 1, max = 16 }
  }
  nats_env = var.nats != "" ? "SLUICE_NATS=${var.nats}" : "SLUICE_NATS={{range $i, $s := nomadService \"nats\"}}{{if $i}},{{end}}nats://{{$s.Address}}:{{$s.Port}}{{end}}"
  otlp_env = var.otlp != "" ? { OTEL_EXPORTER_OTLP_ENDPOINT = var.otlp } : {}
}

job "sluice" {
  datacenters = var.datacenters
  type        = "service"

  # One instance after the other, each healthy before the next: the others hold its lanes meanwhile.
  update {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "5s"
    healthy_deadline = "3m"
    auto_revert      = true
  }

  dynamic "group" {
    for_each = local.groups
    labels   = [group.key]

    content {
      count = group.value.count

      scaling {
        enabled = true
        min     = 1
        max     = group.value.max
      }

      # Two instances on one machine are lost with it.
      spread {
        attribute = "${node.unique.id}"
      }

      restart {
        attempts = 10
        interval = "10m"
        delay    = "2s"
        mode     = "delay"
      }

      network {
        port "grpc" {}
        port "http" {}
      }

      service {
        provider = "nomad"
        name     = "sluice-${group.key}"
        port     = "grpc"
        tags     = ["grpc"]

        # Ready: NATS is there and the service has been built.
        check {
          name     = "ready"
          type     = "http"
          port     = "http"
          path     = "/readyz"
          interval = "5s"
          timeout  = "3s"
        }
      }

      service {
        provider = "nomad"
        name     = "sluice-${group.key}-http"
        port     = "http"
        tags     = ["metrics"]

        # Alive: a process that does not answer is started anew. While NATS is away it is alive.
        check {
          name     = "alive"
          type     = "http"
          path     = "/healthz"
          interval = "5s"
          timeout  = "3s"
          check_restart {
            limit = 6
            grace = "30s"
          }
        }
      }

      task "service" {
        driver = "docker"

        config {
          image           = "${var.image}/${group.key}:${var.tag}"
          ports           = ["grpc", "http"]
          readonly_rootfs = true
          cap_drop        = ["all"]
          security_opt    = ["no-new-privileges:true"]
          pids_limit      = 200
        }

        env = merge(local.otlp_env, {
          SLUICE_GRPC = "0.0.0.0:${NOMAD_PORT_grpc}"
          SLUICE_HTTP = "0.0.0.0:${NOMAD_PORT_http}"
          SLUICE_NAME = "${group.key}-${NOMAD_SHORT_ALLOC_ID}"
          GOMEMLIMIT  = "${floor(group.value.memory * 9 / 10)}MiB"
        })

        template {
          destination = "local/nats.env"
          env         = true
          change_mode = "restart"
          data        = local.nats_env
        }

        # The drain timeout is 15 s.
        kill_signal  = "SIGTERM"
        kill_timeout = "20s"

        resources {
          cpu    = group.value.cpu
          memory = group.value.memory
        }
      }
    }
  }
}
