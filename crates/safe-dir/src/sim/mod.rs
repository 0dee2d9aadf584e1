//! Test doubles for code that stores files in a [`Directory`](crate::Directory): a disk in memory that crashes, and
//! faults at the n-th call of any directory.
//!
//! ```
//! use std::io::Write as _;
//! use safe_dir::sim::{Crash, Disk};
//! use safe_dir::{Directory as _, File as _, publish};
//!
//! let disk = Disk::new();
//! let dir = disk.root();
//! publish(&dir, "durable", |file| file.write_all(b"whole"))?;
//! dir.create("lost")?.write_all(b"neither the content nor the name is synced")?;
//!
//! disk.crash(Crash::Worst);
//! let names: Vec<_> = disk.root().list()?.into_iter().map(|entry| entry.name).collect();
//! assert_eq!(names, ["durable"]);
//! assert!(dir.list().is_err(), "handles from before the crash are dead");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod disk;
mod faults;
mod memory;

pub use disk::{Crash, Disk, Reach};
pub use faults::{Fault, Faults, Faulty, FaultyFile};
pub use memory::{MemoryDir, MemoryFile, MemoryLock};
