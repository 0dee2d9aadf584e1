//! The manager against real sockets, real files and a real collector on loopback.

mod batches;
mod builder;
mod delivery;
mod directories;
mod disabled;
mod failover;
mod faults;
mod files;
mod flush;
mod globals;
mod health;
mod late_log;
mod limits;
mod logging;
mod metric_pages;
mod metrics;
mod observed;
mod processors;
mod programs;
mod reader;
mod secrets;
mod support;
mod vendors;
