//! A point-of-sale terminal stores its receipts while the shop's line is down, and uploads them afterwards.
//! `cargo run -p file-fallback --example receipts`
//!
//! The terminal restarts in between. The server refuses one receipt for good: the terminal stores it as a dead letter.

use std::time::{Duration, SystemTime};

use file_fallback::dead_letters::{DeadLetters, Letter};
use file_fallback::{Config, FileFallback, Next, Record, Verdict};

/// The server of the shop: it accepts every receipt but the one with a negative total.
fn upload(receipt: &[u8]) -> Result<(), &'static str> {
    if receipt.windows(2).any(|bytes| bytes == b":-") { Err("the total is negative") } else { Ok(()) }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let config =
        || Config::builder(scratch.path().join("receipts")).with_signal("receipts").with_max_bytes(1 << 20).build();
    let opening = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_904_000);

    println!("the line is down");
    let mut store = FileFallback::open(config()?)?;
    for minute in 0..6 {
        let now = opening + Duration::from_secs(60 * minute);
        let receipt = |number: u64| {
            let cents = if number == 8 { "-1".to_owned() } else { format!("{}", 100 + number) };
            Record { bytes: format!(r#"{{"receipt":{number},"cents":{cents}}}"#).into_bytes(), count: 1 }
        };
        let spilled = store.spill(&[receipt(2 * minute), receipt(2 * minute + 1)], now)?;
        println!("  wrote {} ({} bytes)", spilled.name, spilled.bytes);
    }
    let full_in = store.full_in(opening + Duration::from_secs(360)).ok_or("receipts were written")?;
    println!("  {:?}; full in {} days at this rate", store.stored(), full_in.as_secs() / 86_400);
    drop(store);

    println!("the terminal restarts, the line is up");
    let mut store = FileFallback::open(config()?)?;
    let mut letters =
        DeadLetters::open(DeadLetters::config(scratch.path().join("refused")).with_signal("receipts").build()?)?;
    let now = opening + Duration::from_secs(600);
    let mut uploaded = 0;
    loop {
        let group = match store.next_group(4_096)? {
            Next::Group(group) => group,
            Next::Pause => continue, // this program has no other work on the disk
            Next::Empty => break,
        };
        let mut verdicts = Vec::new();
        for receipt in &group.records {
            match upload(receipt) {
                Ok(()) => uploaded += 1,
                Err(reason) => {
                    let letter = Letter {
                        signal: "receipts".into(),
                        status: "refused".into(),
                        reason: reason.into(),
                        endpoint: "the shop's server".into(),
                        attempts: 1,
                        accepted: opening,
                        refused: now,
                    };
                    let record = Record { bytes: receipt.clone(), count: 1 };
                    println!("  refused, see {}", letters.add(&letter, &[record], now)?.name);
                }
            }
            verdicts.push(Verdict::Done(1)); // uploaded, or in the letter
        }
        store.settle(group, &verdicts)?;
    }
    println!("  uploaded {uploaded} receipts; {:?}", store.stored());
    assert_eq!((uploaded, store.stored().files, store.take_notices().len()), (11, 0, 0));

    for listed in letters.list() {
        let (letter, receipts) = letters.read(&listed.name)?;
        println!("{}: {}", letter.reason, String::from_utf8_lossy(&receipts[0]));
    }
    assert_eq!(letters.stored().count, 1);
    Ok(())
}
