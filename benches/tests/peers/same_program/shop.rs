//! A service that answers with the statuses of a script, the last of them for ever.

use std::cell::Cell;
use std::fmt;

pub(super) struct Shop {
    script: &'static [u16],
    calls: Cell<usize>,
}

impl Shop {
    pub(super) fn new(script: &'static [u16]) -> Shop {
        Shop { script, calls: Cell::new(0) }
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.get()
    }

    pub(super) async fn get(&self, path: &str) -> Result<String, HttpError> {
        let call = self.calls.replace(self.calls.get() + 1);
        match self.script[call.min(self.script.len() - 1)] {
            200 => Ok(format!("the order at {path}")),
            status => Err(HttpError { status }),
        }
    }
}

#[derive(Debug)]
pub(super) struct HttpError {
    pub(super) status: u16,
}

impl HttpError {
    /// A 5xx is the service's trouble, a 4xx the caller's mistake.
    pub(super) fn is_transient(&self) -> bool {
        self.status >= 500
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the shop answered {}", self.status)
    }
}

impl std::error::Error for HttpError {}
