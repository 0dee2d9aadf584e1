//! One program twice, with the crates that a user would combine otherwise and with ours: an order is asked for behind a
//! breaker that opens for 30 s after 5 failures, up to 10 retries with jitter, each one told; a 4xx is neither retried
//! nor counted. Both are compiled and run; their lines of code are counted.
//!
//! `cargo test -p benches --test peers same_program -- --nocapture` prints the lines.

mod ours;
mod peers;
mod shop;

use shop::Shop;

#[tokio::test(start_paused = true)]
async fn both_programs_treat_the_shop_alike() {
    // Two calls that fail; a mistake of the caller's; a shop that stays down until the breaker opens.
    let scripts: [(&[u16], usize, bool); 3] = [(&[503, 503, 200], 3, true), (&[404], 1, false), (&[503], 5, false)];
    for (script, calls, succeeds) in scripts {
        let (one, other) = (Shop::new(script), Shop::new(script));
        let (first, second) = (ours::order(&one).await, peers::order(&other).await);
        assert_eq!((one.calls(), first.is_ok()), (calls, succeeds), "ours, {script:?}");
        assert_eq!((other.calls(), second.is_ok()), (calls, succeeds), "backon and failsafe, {script:?}");
    }
}

#[test]
fn ours_is_the_shorter_one() {
    let lines =
        |source: &str| source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    let (ours, peers) = (lines(include_str!("ours.rs")), lines(include_str!("peers.rs")));
    println!("lines of code: backoff and breaker {ours}, backon and failsafe {peers}");
    assert!(ours < peers, "{ours} lines with ours, {peers} with theirs");
}
