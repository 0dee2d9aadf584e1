//! The collector and its faults: a process of its own that answers, is slow, hangs, refuses, dies; and the time at
//! which each receipt was written.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mock_collector::{Answer, Behavior, ChildCollector, End};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;

use super::life::TIMEOUT;
use crate::{Failure, now};

/// How the collector behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Up,
    /// It answers late, and in time.
    Slow,
    /// It takes the spans at once and answers when the client has given up.
    Late,
    /// Its ports refuse.
    Refusing,
    /// Connections are accepted and never read.
    BlackHole,
    /// It takes the spans and never answers.
    Mute,
    /// The process is stopped.
    Hung,
    /// The process is dead.
    Gone,
    /// 429, with or without a hint.
    Throttling,
    /// 503.
    Unavailable,
    /// It takes the spans and resets the connection.
    Resetting,
    /// Killed and started again at once.
    Restarted,
    /// The next two requests are refused for good.
    Strict,
}

impl Condition {
    const ALL: [Self; 13] = [
        Self::Up,
        Self::Slow,
        Self::Late,
        Self::Refusing,
        Self::BlackHole,
        Self::Mute,
        Self::Hung,
        Self::Gone,
        Self::Throttling,
        Self::Unavailable,
        Self::Resetting,
        Self::Restarted,
        Self::Strict,
    ];

    /// Half of the time it works.
    pub(crate) fn any(chance: &mut SmallRng) -> Self {
        if chance.random_bool(0.4) { Self::Up } else { *Self::ALL.choose(chance).expect("there are some") }
    }

    /// Brings the condition about in a collector that works.
    pub(crate) fn begin(self, child: &mut ChildCollector, chance: &mut SmallRng) -> Result<(), Failure> {
        match self {
            Self::Up => {}
            Self::Slow => child.set(Behavior::accept().after(SLOW.mul_f64(chance.random())))?,
            Self::Late => child.set(Behavior::accept().after(LATE))?,
            Self::Refusing => child.stop()?,
            Self::BlackHole => child.set(Behavior::never_read())?,
            Self::Mute => child.set(Behavior::never_answer().storing())?,
            Self::Hung => child.pause()?,
            Self::Gone => child.kill(),
            Self::Throttling => {
                let answer = Answer::http(429);
                let hint = chance.random_bool(0.5);
                let answer = if hint {
                    answer.with_retry_after(Duration::from_millis(chance.random_range(0..900)))
                } else {
                    answer
                };
                child.set(Behavior::answer(answer))?;
            }
            Self::Unavailable => child.set(Behavior::answer(Answer::grpc(14)))?,
            Self::Resetting => {
                let end = if chance.random_bool(0.5) { End::Rst } else { End::GoAway(0) };
                child.set(Behavior::end(end).storing())?;
            }
            Self::Restarted => child.restart()?,
            Self::Strict => {
                child.set_next(2, Behavior::answer(Answer::grpc(3).with_message("not like this")))?;
            }
        }
        Ok(())
    }

    /// Ends the condition: the collector works again.
    pub(crate) fn end(self, child: &mut ChildCollector) -> Result<(), Failure> {
        match self {
            Self::Up | Self::Restarted => {}
            Self::Refusing => child.start_again()?,
            Self::Hung => child.resume()?,
            Self::Gone => child.restart()?,
            _ => child.set(Behavior::accept())?,
        }
        Ok(())
    }

    /// The times at which answers to accepted requests may have been missing, if this fault held from `since` until
    /// `until`.
    fn windows(self, since: Instant, until: Instant) -> Vec<Window> {
        // An answer may have been on its way when it stopped.
        let strike = Window { from: since - ANSWER.max(SLOW), to: since + ANSWER };
        match self {
            Self::Up | Self::Slow | Self::Throttling | Self::Unavailable | Self::Strict => Vec::new(),
            Self::Refusing | Self::Gone | Self::Restarted => vec![strike],
            // Then the collector reads requests whose clients have given up since.
            Self::BlackHole | Self::Hung => vec![strike, Window { from: until, to: until + TIMEOUT }],
            Self::Late | Self::Mute | Self::Resetting => vec![Window { from: strike.from, to: until + ANSWER }],
        }
    }
}

const SLOW: Duration = Duration::from_millis(150);
const LATE: Duration = Duration::from_millis(1_400);

/// Between the note of a receipt and its answer, on a machine that has other things to do.
const ANSWER: Duration = Duration::from_millis(100);

/// A time in which an answer may be missing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Instant,
    pub(super) to: Instant,
}

/// The collector and the condition that it is in.
#[derive(Debug)]
pub(super) struct Peer {
    child: ChildCollector,
    condition: Condition,
    since: Instant,
    windows: Vec<Window>,
    watch: Watch,
}

impl Peer {
    pub(super) fn start(program: &Path, record: &Path) -> Result<Self, Failure> {
        let arguments = ["collector".into(), "--record".into(), record.as_os_str().to_owned()];
        let child = ChildCollector::start(program, arguments)?;
        let watch = Watch::start(record.to_owned());
        Ok(Self { child, condition: Condition::Up, since: now(), windows: Vec::new(), watch })
    }

    pub(super) fn grpc_endpoint(&self) -> String {
        self.child.grpc_endpoint()
    }

    pub(super) fn http_endpoint(&self) -> String {
        self.child.http_endpoint()
    }

    pub(super) fn change(&mut self, condition: Condition, chance: &mut SmallRng) -> Result<(), Failure> {
        self.clear_up()?;
        self.since = now();
        self.condition = condition;
        condition.begin(&mut self.child, chance)
    }

    /// Back to a collector that works.
    pub(super) fn clear_up(&mut self) -> Result<(), Failure> {
        let condition = std::mem::replace(&mut self.condition, Condition::Up);
        condition.end(&mut self.child)?;
        self.windows.extend(condition.windows(self.since, now()));
        Ok(())
    }

    /// The windows of all conditions until now, and the time at which each span was written.
    pub(super) fn finish(mut self) -> Result<(Vec<Window>, Times), Failure> {
        self.clear_up()?;
        self.child.kill();
        Ok((self.windows, self.watch.finish()))
    }
}

/// Looks at the length of the record all the time.
#[derive(Debug)]
struct Watch {
    stop: Arc<AtomicBool>,
    steps: Arc<Mutex<Vec<Step>>>,
    thread: Option<JoinHandle<()>>,
}

/// The record had this many spans at `seen`, and fewer at `before`.
#[derive(Clone, Copy, Debug)]
struct Step {
    spans: u64,
    before: Instant,
    seen: Instant,
}

impl Watch {
    const EVERY: Duration = Duration::from_millis(2);
    const ID: u64 = 24;

    fn start(record: PathBuf) -> Self {
        let (stop, steps) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&steps));
        let thread = thread::spawn(move || {
            let (mut spans, mut before) = (0, now());
            loop {
                let last = stopped.load(Ordering::Acquire);
                let length = std::fs::metadata(&record).map_or(0, |metadata| metadata.len() / Self::ID);
                let seen = now();
                if length > spans {
                    spans = length;
                    noted.lock().expect("no thread panics with the lock held").push(Step { spans, before, seen });
                }
                before = seen;
                if last {
                    break;
                }
                thread::park_timeout(Self::EVERY);
            }
        });
        Self { stop, steps, thread: Some(thread) }
    }

    fn finish(mut self) -> Times {
        self.end();
        Times(std::mem::take(&mut self.steps.lock().expect("no thread panics with the lock held")))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

/// When each span of the record was written down.
#[derive(Debug)]
pub(super) struct Times(Vec<Step>);

impl Times {
    /// Between which two moments number `index` was.
    pub(super) fn of(&self, index: u64) -> Option<(Instant, Instant)> {
        let step = self.0.partition_point(|step| step.spans <= index);
        self.0.get(step).map(|step| (step.before, step.seen))
    }
}

const _: () = assert!(LATE.as_millis() > TIMEOUT.as_millis() && SLOW.as_millis() < TIMEOUT.as_millis());
