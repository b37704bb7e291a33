//! The rules: what a fact does to the ledger, what a figure means, what a state is called.

pub(crate) mod documents;
pub(crate) mod intake;
pub(crate) mod ledger;
pub(crate) mod letters;
pub(crate) mod live;
pub(crate) mod range;
pub(crate) mod rates;
pub(crate) mod states;
pub(crate) mod tally;
pub(crate) mod windows;
pub(crate) mod writer;
