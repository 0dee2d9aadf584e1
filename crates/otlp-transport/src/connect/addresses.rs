//! The addresses of a name, and those among them that have failed.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

/// How long an address that failed is tried behind the others. A replica that came back gets its share of the
/// connections again soon, and a dead one costs at most one look a minute.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Looks names up; asked once for each connection.
#[async_trait]
pub(crate) trait Resolve: Send + Sync {
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The resolver of the system.
struct System;

#[async_trait]
impl Resolve for System {
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

/// Looks names up, and remembers addresses that failed: they are tried last, but they are tried.
pub(crate) struct Addresses {
    pub(super) resolver: Box<dyn Resolve>,
    pub(super) memory: Mutex<Memory>,
}

impl Default for Addresses {
    fn default() -> Self {
        Self::of(System)
    }
}

impl Addresses {
    pub(crate) fn of(resolver: impl Resolve + 'static) -> Self {
        Self { resolver: Box::new(resolver), memory: Mutex::default() }
    }

    /// The addresses of a name, in the order in which to try them. Each call looks the name up anew.
    pub(super) async fn of_host(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let found = self.resolver.addresses(host, port).await?;
        Ok(self.memory().sort(found, Instant::now()))
    }

    /// No connection came about, or none within the time in which the next address had its turn.
    pub(super) fn has_failed(&self, address: SocketAddr) {
        self.memory().has_failed(address, Instant::now());
    }

    /// A connection is open.
    pub(super) fn works(&self, address: SocketAddr) {
        let mut memory = self.memory();
        memory.failed.retain(|(failed, _)| *failed != address);
        memory.last = Some(address);
    }

    /// The connection that was opened last may lead to the one bad replica: the next one tries its address last.
    pub(crate) fn avoid_last(&self) {
        let mut memory = self.memory();
        if let Some(last) = memory.last.take() {
            memory.has_failed(last, Instant::now());
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub(super) struct Memory {
    /// The address of the connection that was opened last.
    last: Option<SocketAddr>,
    /// Addresses that failed, with the instant, the latest last.
    failed: Vec<(SocketAddr, Instant)>,
}

impl Memory {
    fn has_failed(&mut self, address: SocketAddr, now: Instant) {
        self.failed.retain(|(failed, _)| *failed != address);
        self.failed.push((address, now));
    }

    /// Puts the addresses that failed behind the others, the one that failed first in front; each group else keeps the
    /// order of the resolver.
    fn sort(&mut self, mut addresses: Vec<SocketAddr>, now: Instant) -> Vec<SocketAddr> {
        self.failed.retain(|(_, at)| now.saturating_duration_since(*at) < REMEMBERED);
        addresses
            .sort_by_key(|address| self.failed.iter().position(|(failed, _)| failed == address).map_or(0, |at| at + 1));
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 4317))
    }

    #[test]
    fn an_address_that_failed_is_tried_last_for_a_minute() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let [one, two, three] = [1, 2, 3].map(address);
        let sort =
            |memory: &mut Memory, after: u64| memory.sort(vec![one, two, three], start + Duration::from_secs(after));
        assert_eq!(sort(&mut memory, 0), [one, two, three]);
        memory.has_failed(one, start);
        assert_eq!(sort(&mut memory, 0), [two, three, one]);
        memory.has_failed(two, start + Duration::from_secs(10));
        assert_eq!(sort(&mut memory, 10), [three, one, two]);
        memory.has_failed(one, start + Duration::from_secs(20));
        assert_eq!(sort(&mut memory, 20), [three, two, one]);
        assert_eq!(sort(&mut memory, 69), [three, two, one]);
        assert_eq!(sort(&mut memory, 70), [two, three, one]);
        assert_eq!(sort(&mut memory, 80), [one, two, three]);
        assert!(memory.failed.is_empty());
    }

    #[test]
    fn an_address_that_works_is_forgotten_as_failed() {
        let addresses = Addresses::default();
        addresses.has_failed(address(1));
        addresses.works(address(1));
        assert!(addresses.memory().failed.is_empty());
    }

    #[test]
    fn the_last_address_is_avoided_once() {
        let addresses = Addresses::default();
        addresses.avoid_last();
        assert!(addresses.memory().failed.is_empty());
        addresses.works(address(1));
        addresses.avoid_last();
        addresses.works(address(1));
        assert!(addresses.memory().failed.is_empty());
        addresses.avoid_last();
        assert_eq!(addresses.memory().failed.len(), 1);
    }
}
