//! The API under `/api/v1`: one file per thing, each with its query, its answer and thin handlers.
//! Paths stand in [`crate::router`].

pub(crate) mod audit;
pub(crate) mod clusters;
pub(crate) mod collection;
pub(crate) mod dead;
pub(crate) mod documents;
pub(crate) mod error;
pub(crate) mod extract;
pub(crate) mod live;
pub(crate) mod losses;
pub(crate) mod nodes;
pub(crate) mod openapi;
pub(crate) mod reports;
pub(crate) mod routes;
pub(crate) mod switches;
pub(crate) mod system;
pub(crate) mod topics;
