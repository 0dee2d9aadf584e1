//! A closure that talks to something like a database, retried within a budget.
//! `cargo run -p backoff --example retried_database`

use std::time::Duration;

use backoff::{Backoff, Budget, Decorrelated, retry};

#[derive(Debug)]
enum DbError {
    Deadlock,
    UniqueViolation,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policy = Decorrelated::new(Duration::from_millis(2), Duration::from_millis(20))?;
    let backoff = Backoff::builder(policy).with_max_retries(Some(3)).build()?;
    let budget = Budget::builder().with_capacity(4).with_ratio(0.5).build()?;

    let mut attempts = 0;
    let inserted = retry(|| {
        attempts += 1;
        if attempts < 3 { Err(DbError::Deadlock) } else { Ok("inserted") }
    })
    .backoff(backoff)
    .budget(budget.clone())
    .when(|error| matches!(error, DbError::Deadlock))
    .run();
    println!("{inserted:?} after {attempts} attempts, {} retries left in the budget", budget.available());

    let refused =
        retry(|| Err::<(), _>(DbError::UniqueViolation)).when(|error| matches!(error, DbError::Deadlock)).run();
    println!("{refused:?}");

    // Everything fails: once the budget is spent, each operation is one call.
    for _ in 0..3 {
        let failed = retry(|| Err::<(), _>(DbError::Deadlock)).backoff(backoff).budget(budget.clone()).run();
        println!("{:?}", failed.map_err(|end| (end.calls, end.stop)));
    }
    Ok(())
}
