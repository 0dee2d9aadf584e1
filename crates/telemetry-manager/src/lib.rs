//! One line that sets up resilient OpenTelemetry tracing from the environment.
