//! The command as its users meet it: a child process.

mod demo;
mod serve;
