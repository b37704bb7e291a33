//! Records that a destination will never take as they are, kept with its reason until somebody mends
//! what is wrong and replays them, or gives them up: `<data_dir>/dead/<destination>/`.
//!
//! | room | what for |
//! |---|---|
//! | [`mod@format`] | the bytes |
//! | [`store`] | the file, and what is known of each letter |
//! | [`api`] | what an operator asks |
//!
//! Not for: batches that a destination refuses as a whole (their stream stands still, see
//! [`crate::destination`]), batches that it takes later (see [`crate::spill`]).

pub(crate) mod api;
mod format;
mod store;

pub(crate) use self::store::{Dead, Filter, Gone, Letters};
