//! The exporter behind the real SDK, against a real receiver on real sockets.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `ages` | spans that are too old to be sent |
//! | `answers` | every answer of a collector, to a live batch and to a stored one |
//! | `calls` | the durations of calls, and their observers |
//! | `concurrency` | calls at a time |
//! | `connections` | the calls that use a new connection |
//! | `dead_letters` | dead letters are listed, read, redriven and removed |
//! | `delivery` | delivery on good days, in outages and after every kind of answer |
//! | `drains` | the calls of a shutdown in each state of the collector |
//! | `durable` | durable mode: the journal across crashes, shutdowns and a hanging disk |
//! | `ending` | the numbers in the error of a shutdown |
//! | `failover` | several collectors |
//! | `file_exporter` | the exporter that writes files and sends nothing |
//! | `file_sizes` | a limit on file sizes ends no process |
//! | `forks` | a process that forks after set-up |
//! | `hostile` | foreign and damaged files in the state directory |
//! | `lifecycle` | start, shutdown and drop; refused settings |
//! | `log` | the log of these tests, whose subscriber panics at each line |
//! | `logging` | the limits of the log, and a log that panics |
//! | `moments` | programs that live for a moment, each a process of its own |
//! | `outages` | the records of outages |
//! | `processes` | several processes on one state directory, and directories that are not this service's |
//! | `processor` | the processor of our own: batches, flushes, the end, hostile moments |
//! | `refusals` | collectors that refuse for a while, in part, or one of several |
//! | `seams` | a user's own transport, exporter, fallback, clock, backoff and breaker |
//! | `vanished` | parts of the journal that another program removes; a user's own journal that loses batches |
//! | `signals` | logs and metrics through pipelines of their own |
//! | `support` | a traced application and its comparison with the collector |

mod ages;
mod answers;
mod calls;
mod concurrency;
mod connections;
mod credentials;
mod dead_letters;
mod delivery;
mod drains;
mod durable;
mod ending;
mod failover;
mod file_exporter;
mod file_sizes;
mod flush;
mod forks;
mod hostile;
mod lifecycle;
mod log;
mod logging;
mod moments;
mod outages;
mod processes;
mod processor;
mod refusals;
mod seams;
mod signals;
mod support;
mod vanished;
