//! The collector over real sockets, spoken to by a plain tonic client, a bare HTTP/2 client and hand-written HTTP/1.1.

mod child;
mod client;
mod faults;
mod lifecycle;
mod limits;
mod receipts;
