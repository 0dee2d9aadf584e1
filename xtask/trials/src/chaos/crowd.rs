//! The storm of several processes on one state directory: by turns one is killed and started again, rolled over to a
//! new one, or stands still, while the others go on.
//!
//! Before a kill all processes are stopped. The storm then reads the disk as it is at that instant, in the middle of
//! all moves between directories: each span that is owed must be in a file.

use std::fs;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rustix::process::{Pid, Signal, kill_process};

use super::conditions::Window;
use super::report::Report;
use super::storm::{AFTER_A_KILL, BACKLOG, BEFORE_A_KILL, PATIENCE, Process, SETTLED, Storm, rest};
use super::{disk, ledger, life};
use crate::{Failure, now, wait_until};

/// An answer that was on its way when the processes were stopped may come too late.
const AROUND_A_STOP: Duration = Duration::from_millis(200);

/// A stopped process has no thread that runs by then.
const STOPPED: Duration = Duration::from_secs(10);

impl Storm<'_> {
    /// Plays the storm, and lets one process deliver everything while it lives.
    pub(super) fn crowd(mut self) -> Result<Report, Failure> {
        let mut crowd = Vec::new();
        for _ in 0..self.plan.processes {
            crowd.push(self.start(true)?);
            rest(Duration::from_millis(self.chance.random_range(0..100)));
        }
        while self.wrong.is_empty() && self.kills < self.plan.kills && self.began.elapsed() < self.plan.limit {
            self.one_turn(&mut crowd)?;
        }
        self.last_one(crowd)?;
        self.report()
    }

    fn one_turn(&mut self, crowd: &mut Vec<Process>) -> Result<(), Failure> {
        rest(Duration::from_millis(self.chance.random_range(20..500)));
        if self.chance.random_bool(0.3) {
            self.change_condition()?;
        }
        let index = self.chance.random_range(0..crowd.len());
        match self.chance.random_range(0..100) {
            0..50 => {
                self.kill_beside(index, crowd)?;
                crowd.push(self.start(true)?);
            }
            50..65 => {
                self.roll_over(crowd)?;
                self.kill_beside(index, crowd)?;
            }
            65..85 => {
                self.roll_over(crowd)?;
                let old = crowd.swap_remove(index);
                self.end(old)?;
            }
            _ => crowd[index].pause(Duration::from_millis(self.chance.random_range(1..250)))?,
        }
        if self.account.open() > BACKLOG && self.wrong.is_empty() {
            self.catch_up_with(crowd)?;
        }
        Ok(())
    }

    /// The new process starts before the old one ends.
    fn roll_over(&mut self, crowd: &mut Vec<Process>) -> Result<(), Failure> {
        let new = self.start(true)?;
        crowd.push(new);
        rest(Duration::from_millis(self.chance.random_range(0..400)));
        Ok(())
    }

    /// Stops all, looks at the disk, kills one, and lets the others go on.
    fn kill_beside(&mut self, index: usize, crowd: &mut Vec<Process>) -> Result<(), Failure> {
        let stopped = self.stop_all(crowd)?;
        self.look_at(crowd)?;
        let mut process = crowd.swap_remove(index);
        process.child.kill()?;
        process.child.wait()?;
        self.kills += 1;
        self.note(format_args!("life {} is killed", process.number))?;
        self.kill_windows.push(Window { from: stopped - BEFORE_A_KILL, to: now() + AFTER_A_KILL });
        self.take_in(&process)?;
        self.go_on(crowd, stopped)
    }

    fn stop_all(&mut self, crowd: &mut [Process]) -> Result<Instant, Failure> {
        let stopped = now();
        for process in crowd.iter_mut() {
            if let Some(status) = process.child.try_wait()? {
                self.wrong.push(process.gone_by_itself(status));
                continue;
            }
            kill_process(Pid::from_child(&process.child), Signal::STOP)?;
        }
        for process in crowd.iter_mut() {
            let pid = process.child.id();
            wait_until("a process that stands still", STOPPED, || stands_still(pid))?;
        }
        Ok(stopped)
    }

    fn go_on(&mut self, crowd: &[Process], stopped: Instant) -> Result<(), Failure> {
        for process in crowd {
            match kill_process(Pid::from_child(&process.child), Signal::CONT) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
        }
        self.blind_windows.push(Window { from: stopped - AROUND_A_STOP, to: now() + AROUND_A_STOP });
        Ok(())
    }

    /// Adds the ledgers of all processes, which stand still, and looks for every span that is owed.
    fn look_at(&mut self, crowd: &[Process]) -> Result<(), Failure> {
        for process in crowd {
            self.account.take_ledger(process.number, ledger::read(&process.life.file("ledger"))?);
        }
        self.look()?;
        // Other processes take spans over at any time: none has to find a certain number at its start.
        self.found = None;
        Ok(())
    }

    /// Ends all processes; one without load delivers most of the backlog and stays.
    fn catch_up_with(&mut self, crowd: &mut Vec<Process>) -> Result<(), Failure> {
        self.note(format_args!("catching up"))?;
        self.peer.clear_up()?;
        let quiet = self.start(false)?;
        for old in std::mem::replace(crowd, vec![quiet]) {
            self.end(old)?;
        }
        let begun = now();
        while self.account.open() > BACKLOG / 4 && self.wrong.is_empty() {
            if begun.elapsed() > PATIENCE {
                self.wrong.push(format!("{} spans still wait after {PATIENCE:?} of catching up", self.account.open()));
            }
            rest(Duration::from_millis(500));
            let stopped = self.stop_all(crowd)?;
            self.look_at(crowd)?;
            self.go_on(crowd, stopped)?;
        }
        while crowd.len() < self.plan.processes as usize {
            crowd.push(self.start(true)?);
        }
        Ok(())
    }

    /// One process without load stays while all others end; no span may stay on disk while it lives.
    fn last_one(&mut self, mut crowd: Vec<Process>) -> Result<(), Failure> {
        self.peer.clear_up()?;
        crowd.insert(0, self.start(false)?);
        while crowd.len() > 1 {
            if self.chance.random_bool(0.5) {
                let old = crowd.swap_remove(1);
                self.end(old)?;
            } else {
                self.kill_beside(1, &mut crowd)?;
            }
        }
        let state = self.plan.folder.join("state");
        let mut alone = crowd;
        let begun = now();
        loop {
            let status = life::read_status(&alone[0].life.file("status"))?;
            let waits = status.last().map_or(u64::MAX, |status| status.waiting);
            rest(SETTLED);
            if waits == 0 {
                let stopped = self.stop_all(&mut alone)?;
                self.look_at(&alone)?;
                let left = disk::read(&state)?.waiting();
                self.go_on(&alone, stopped)?;
                if left == 0 || !self.wrong.is_empty() {
                    break;
                }
            }
            if begun.elapsed() > PATIENCE {
                let left = disk::read(&state).map_or(0, |disk| disk.waiting());
                self.wrong.push(format!(
                    "{left} spans are on disk, {waits} of them known to the process that lives, {PATIENCE:?} after the others ended"
                ));
                break;
            }
        }
        let last = alone.pop().expect("the one that lives");
        self.end(last)?;
        self.look()
    }
}

/// No thread of the process runs.
fn stands_still(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which may hold anything, in parentheses.
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        matches!(state, None | Some('T' | 't' | 'Z' | 'X'))
    })
}
