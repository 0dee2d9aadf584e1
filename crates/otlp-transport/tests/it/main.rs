//! The transports against hand-written servers on real sockets.

mod adapter;
mod causes;
mod credentials;
mod deadlines;
mod documented;
mod failover;
mod first_bytes;
mod gateways;
mod grpc_table;
mod headers_file;
mod http_table;
mod limits;
mod observers;
mod proxies;
mod reconnect;
mod replicas;
mod requests;
mod settings;
mod signals;
mod slips;
mod sockets;
mod support;
#[cfg(feature = "_tls")]
mod tls;
