//! A collector in a process of its own, the faults that can strike it, and its record of the spans that it accepted.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use mock_collector::{Behavior, ChildCollector, SpanIds, read_record};

use crate::Failure;

/// The fault that strikes the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing listens: a connection is refused at once.
    Refused,
    /// Connections are accepted and never read.
    BlackHole,
    /// The process is stopped by a signal; the kernel goes on accepting and buffering for it.
    Hung,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Refused, Self::BlackHole, Self::Hung];

    /// In two words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "port refused",
            Self::BlackHole => "black hole",
            Self::Hung => "hung process",
        }
    }
}

/// A running collector process; dropping it ends the process.
#[derive(Debug)]
pub struct Collector {
    child: ChildCollector,
    record: PathBuf,
}

impl Collector {
    /// Starts `program collector`, which is this package's own, with a record at this path.
    ///
    /// # Errors
    ///
    /// When the process does not start or does not listen.
    pub fn start(program: &Path, record: PathBuf) -> Result<Self, Failure> {
        let arguments: [OsString; 3] = ["collector".into(), "--record".into(), record.clone().into()];
        Ok(Self { child: ChildCollector::start(program, arguments)?, record })
    }

    /// Where it takes OTLP/gRPC.
    #[must_use]
    pub fn grpc_endpoint(&self) -> String {
        self.child.grpc_endpoint()
    }

    /// Where it takes OTLP/HTTP, without the path of the signal.
    #[must_use]
    pub fn http_endpoint(&self) -> String {
        self.child.http_endpoint()
    }

    /// The ids of every span it took, duplicates included, in the order of arrival: read from its record.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn received(&self) -> Result<Vec<SpanIds>, Failure> {
        Ok(read_record(&self.record)?)
    }

    /// How many spans it took, duplicates included: the size of its record.
    #[must_use]
    pub fn received_count(&self) -> u64 {
        const RECORD_BYTES: u64 = 24;
        std::fs::metadata(&self.record).map_or(0, |metadata| metadata.len() / RECORD_BYTES)
    }

    /// Brings the fault about; it holds when this returns.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub fn strike(&mut self, fault: Fault) -> Result<(), Failure> {
        match fault {
            Fault::Refused => self.child.stop()?,
            Fault::BlackHole => self.child.set(Behavior::never_read())?,
            Fault::Hung => self.child.pause()?,
        }
        Ok(())
    }

    /// Ends the fault; the collector works when this returns.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub fn heal(&mut self, fault: Fault) -> Result<(), Failure> {
        match fault {
            Fault::Refused => self.child.start_again()?,
            Fault::BlackHole => self.child.set(Behavior::accept())?,
            Fault::Hung => self.child.resume()?,
        }
        Ok(())
    }
}
