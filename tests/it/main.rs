//! All integration tests in one binary: real servers, the real programs, and the repository's rules.

mod bad_input;
mod deliver;
mod dump;
mod faults;
mod links;
mod tidy;
mod web_server;
