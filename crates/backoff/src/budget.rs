//! A retry budget: each success brings in a part of the price of a retry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{self, InvalidConfig};

/// Limits retries to a part of the successes, over all operations that share it: when everything fails, retries stop
/// instead of multiplying the load. One atomic; a clone shares it.
///
/// A retry costs 1, a success brings in [`with_ratio`](BudgetBuilder::with_ratio); it begins full and holds at most
/// [`with_capacity`](BudgetBuilder::with_capacity). First calls are always free.
///
/// ```
/// use backoff::Budget;
///
/// let budget = Budget::builder().with_capacity(2).with_ratio(0.5).build()?;
/// assert!(budget.withdraw() && budget.withdraw() && !budget.withdraw());
/// budget.deposit();
/// budget.deposit(); // two successes pay for one retry
/// assert!(budget.withdraw());
/// # Ok::<(), backoff::InvalidConfig>(())
/// ```
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// In thousandths of a retry.
    tokens: AtomicU64,
    capacity: u64,
    deposit: u64,
}

impl Budget {
    /// Starts from the defaults.
    pub const fn builder() -> BudgetBuilder {
        BudgetBuilder { capacity: 100, ratio: 0.2 }
    }

    /// Takes the price of one retry; `false` (and nothing taken) if it is not there.
    #[must_use = "a retry that was not paid for must not be made"]
    pub fn withdraw(&self) -> bool {
        let paid = |tokens: u64| tokens.checked_sub(RETRY);
        self.shared.tokens.fetch_update(Ordering::AcqRel, Ordering::Acquire, paid).is_ok()
    }

    /// Adds the share of a call that succeeded. A full budget is only read.
    pub fn deposit(&self) {
        let (capacity, deposit) = (self.shared.capacity, self.shared.deposit);
        let filled = |tokens: u64| (tokens < capacity).then(|| tokens.saturating_add(deposit).min(capacity));
        let _ = self.shared.tokens.fetch_update(Ordering::AcqRel, Ordering::Acquire, filled);
    }

    /// Gives back the price of a retry that was not made.
    pub(crate) fn refund(&self) {
        let capacity = self.shared.capacity;
        let filled = |tokens: u64| (tokens < capacity).then(|| tokens.saturating_add(RETRY).min(capacity));
        let _ = self.shared.tokens.fetch_update(Ordering::AcqRel, Ordering::Acquire, filled);
    }

    /// How many retries it would pay for now.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.shared.tokens.load(Ordering::Acquire) / RETRY
    }
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::builder().build().expect("the defaults are valid")
    }
}

/// Collects the settings of a [`Budget`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct BudgetBuilder {
    capacity: u32,
    ratio: f64,
}

impl BudgetBuilder {
    /// How many retries it holds when full. Default 100; from 1.
    pub const fn with_capacity(mut self, retries: u32) -> BudgetBuilder {
        self.capacity = retries;
        self
    }

    /// How many retries a success pays for. Default 0.2 (as in tower's and Finagle's budgets); 0.001 to 1000.
    pub const fn with_ratio(mut self, ratio: f64) -> BudgetBuilder {
        self.ratio = ratio;
        self
    }

    /// Checks the whole.
    ///
    /// # Errors
    /// Names the first setting that is out of its range, with its value and the range.
    pub fn build(self) -> Result<Budget, InvalidConfig> {
        error::number("capacity", self.capacity, 1, u32::MAX)?;
        error::float("ratio", self.ratio, 0.001, 1000.0)?;
        let capacity = u64::from(self.capacity) * RETRY;
        let deposit = (self.ratio * RETRY as f64 + 0.5) as u64;
        Ok(Budget { shared: Arc::new(Shared { tokens: AtomicU64::new(capacity), capacity, deposit }) })
    }
}

const RETRY: u64 = 1000;
