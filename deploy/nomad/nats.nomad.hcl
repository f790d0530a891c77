# One NATS for Sluice, with the recommended configuration and its data on the machine that has the host volume
# "nats" (client { host_volume "nats" { path = "/srv/nats" } }; the directory belongs to 65532). For a
# cluster see deploy/nats/cluster.conf.
#
#   nomad job run nats.nomad.hcl      in this directory: it reads ../nats/single.conf

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

job "nats" {
  datacenters = var.datacenters
  type        = "service"

  group "nats" {
    count = 1

    network {
      port "client" { static = 4222 }
      port "monitor" {}
    }

    volume "data" {
      type   = "host"
      source = "nats"
    }

    service {
      provider = "nomad"
      name     = "nats"
      port     = "client"

      check {
        name     = "healthy"
        type     = "http"
        port     = "monitor"
        path     = "/healthz"
        interval = "5s"
        timeout  = "3s"
      }
    }

    task "nats" {
      driver = "docker"
      user   = "65532:65532"

      config {
        image           = "nats:2.15.0-alpine"
        args            = ["--config", "/local/nats.conf", "--addr", "0.0.0.0", "--port", "${NOMAD_PORT_client}", "--http_port", "${NOMAD_PORT_monitor}"]
        ports           = ["client", "monitor"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges:true"]
      }

      volume_mount {
        volume      = "data"
        destination = "/var/lib/nats"
      }

      template {
        destination = "local/nats.conf"
        change_mode = "noop"
        data        = file("../nats/single.conf")
      }

      kill_timeout = "30s"

      resources {
        cpu    = 1000
        memory = 1024
      }
    }
  }
}
