//! Health, metrics and resilience tests over HTTP.
