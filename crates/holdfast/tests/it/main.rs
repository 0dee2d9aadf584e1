//! The command as its users meet it: a child process.

#[cfg(target_os = "linux")]
mod abuse;
mod demo;
mod killed;
mod serve;
