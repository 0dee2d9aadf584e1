//! A span exporter that survives its collector: buffer, breaker, backoff, file fallback, replay, and a ledger.
