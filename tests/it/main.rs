//! All integration tests in one binary: real servers, the real programs, and the repository's rules.

mod admission;
mod bad_input;
mod browser;
mod bus_on_kafka;
mod deliver;
mod dump;
mod failover;
mod faults;
mod framing;
mod groups;
mod hdfs;
mod links;
mod live;
mod merged;
mod person;
mod post;
mod real_writers;
mod refused;
mod routes;
mod search;
mod secure;
mod shapes;
mod sim;
mod spill;
mod tidy;
mod web_server;
