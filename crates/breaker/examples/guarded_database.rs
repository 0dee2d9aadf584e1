//! A closure that talks to something like a database, guarded by a breaker.
//! `cargo run -p breaker --example guarded_database`

use std::cell::Cell;
use std::time::Duration;

use breaker::{Breaker, CallError, Config, Outcome};

/// Stands for a driver: three queries find the server down, the rest find it up.
struct Database {
    down_for: Cell<u32>,
}

#[derive(Debug)]
enum DbError {
    Unreachable,
    Syntax,
}

impl Database {
    fn query(&self, sql: &str) -> Result<usize, DbError> {
        if !sql.starts_with("SELECT") {
            return Err(DbError::Syntax);
        }
        if self.down_for.get() > 0 {
            self.down_for.set(self.down_for.get() - 1);
            return Err(DbError::Unreachable);
        }
        Ok(sql.len())
    }
}

/// A query that the server does not understand says nothing about the server.
fn classify(result: &Result<usize, DbError>) -> Outcome {
    match result {
        Err(DbError::Syntax) => Outcome::Neutral,
        other => other.into(),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::builder().with_failure_threshold(3).with_open_duration(Duration::from_millis(50)).build()?;
    let breaker = Breaker::new(config);
    breaker.subscribe(|moved| println!("  [{} -> {}: {}]", moved.from, moved.to, moved.reason));
    let database = Database { down_for: Cell::new(3) };

    for sql in ["SELEKT 1", "SELECT 1", "SELECT 2", "SELECT 3", "SELECT 4"] {
        match breaker.call_with(classify, || database.query(sql)) {
            Err(CallError::Rejected(refused)) => {
                println!("{sql}: {refused}");
                std::thread::park_timeout(refused.retry_after().unwrap_or_default());
            }
            result => println!("{sql}: {result:?}"),
        }
    }
    // `call` takes every error for a failure; after the open time one probe goes out.
    while let Err(CallError::Rejected(rejected)) = breaker.call(|| database.query("SELECT 5")) {
        std::thread::park_timeout(rejected.retry_after().unwrap_or_default());
    }
    println!("{} after {} trip", breaker.state(), breaker.trips());
    Ok(())
}
