//! How long to wait before the next retry: exponential, constant or decorrelated, with jitter under a hard cap.
