#![doc = include_str!("../README.md")]

mod below;
mod directory;
mod entry;
mod error;
mod handle;
mod lock;
mod locked;
mod name;
mod network;
mod open;
mod owner;
mod publish;
mod quarantine;
mod real;
mod shared;
#[cfg(feature = "sim")]
pub mod sim;
mod walk;

pub use below::{OtherBelow, Place, Placed, others_below};
pub use directory::{Directory, File, Space};
pub use entry::{Entry, Kind, Metadata};
pub use error::{FileError, LockError, OpenError, ShareError};
pub use lock::{LOCK_FILE, Lock};
pub use locked::Locked;
pub use name::NameProblem;
pub use owner::{Machine, Owner};
pub use publish::{Draft, move_file, publish, remove_leftovers, replace};
pub use quarantine::{Quarantine, QuarantineLimits};
pub use real::SafeDir;
pub use shared::{Adopted, HEARTBEAT_TIMEOUT, Other, SharedDir};
