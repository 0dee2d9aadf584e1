//! Resilience tests on command: load and faults in a pipeline of their own, with a verdict from its ledger.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `plan` | the kinds of tests; the spans and the fault of each, pure |
//! | `figures` | the numbers over time, in bounded memory |
//! | `pipeline` | a provider and an exporter of the test's own |
//! | `scratch` | the directory of a test, and those that killed processes have left |
//! | `run` | one test: its thread, its state, its verdict |
//! | `registry` | the tests of a process, and their limits |
//! | `loads` | spans through the process's own pipeline |
//! | `body` | request bodies: strict JSON objects |
//! | `routes` | the same over HTTP |

pub(crate) mod body;
mod figures;
mod loads;
mod pipeline;
mod plan;
mod registry;
pub(crate) mod routes;
mod run;
mod scratch;

pub use figures::Figure;
pub use loads::{Generated, Loads};
pub use pipeline::StartError;
pub use plan::{Severity, TestPlan, TestType};
pub use registry::Tests;
pub(crate) use routes::routes;
pub use run::{TestReport, TestState, Verdict};
