"""What an operator looks at: the dashboard as code, alert rules, provisioning, Prometheus configuration."""
