//! Jobs for a remote queue that survive the end of the program. `cargo run -p journal --example job_queue`

use std::error::Error;
use std::path::Path;

use journal::{Config, Journal};
use safe_dir::SafeDir;

/// Stands for a remote queue that confirms one job and then loses its connection.
#[derive(Default)]
struct RemoteQueue {
    accepted: Vec<String>,
}

impl RemoteQueue {
    fn submit(&mut self, job: &str, connected: bool) -> bool {
        if connected {
            self.accepted.push(job.to_owned());
        }
        connected
    }
}

fn open(dir: &Path, incarnation: u64) -> Result<Journal<SafeDir>, Box<dyn Error>> {
    // This program moves no jobs to files: the journal has all of them.
    let (journal, report) = Journal::open(SafeDir::open(dir)?, Config::default(), incarnation, |_file| Ok(false))?;
    println!("opened: {} jobs wait", report.batches);
    Ok(journal)
}

/// Accepts three jobs; the queue confirms the first.
fn first_run(dir: &Path, queue: &mut RemoteQueue) -> Result<(), Box<dyn Error>> {
    let mut journal = open(dir, 0x5eed)?; // a random number in a real program
    let jobs = ["resize a.png", "resize b.png", "send the report"];
    for (seq, job) in (0..).zip(jobs) {
        journal.append((journal.incarnation(), seq), 1, job.as_bytes())?;
    }
    journal.sync()?; // one sync for three jobs
    println!("three jobs are accepted: from here on they survive a power cut");
    for (seq, job) in (0..).zip(jobs) {
        if queue.submit(job, seq == 0) {
            journal.done(&[(journal.incarnation(), seq)])?;
        }
    }
    journal.sync()?;
    Ok(()) // the journal is not told that the program ends, as with `kill -9`
}

/// Submits the jobs that the first run has left.
fn second_run(dir: &Path, queue: &mut RemoteQueue) -> Result<(), Box<dyn Error>> {
    let mut journal = open(dir, 0xfeed)?;
    #[expect(clippy::disallowed_methods, reason = "an example is a shell")]
    while let Some(job) = journal.next_recovered(std::time::Instant::now()) {
        let job = job?;
        if queue.submit(std::str::from_utf8(&job.body)?, true) {
            journal.done(&[job.id])?;
        }
    }
    journal.sync()?;
    while journal.maintain()? {}
    assert_eq!(journal.status().batches, 0);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let mut queue = RemoteQueue::default();
    first_run(dir.path(), &mut queue)?;
    second_run(dir.path(), &mut queue)?;
    println!("the queue has: {}", queue.accepted.join(", "));
    assert_eq!(queue.accepted, ["resize a.png", "resize b.png", "send the report"]);
    Ok(())
}
