//! All integration tests in one binary: real servers, the real programs, and the repository's rules.

mod dump;
mod web_server;
