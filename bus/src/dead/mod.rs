//! Records that a destination will never take as they are, kept with its reason until somebody mends
//! what is wrong and replays them, or gives them up: `<data_dir>/dead/<destination>/`.
//!
//! | room | what for |
//! |---|---|
//! | `format` | the bytes |
//! | `card` | what is known of a letter without reading it |
//! | `alone` | a record as a batch of its own |
//! | `store` | the file |
//! | `telling` | what the manager has not heard of them |
//! | [`inspect`] | letters in words, offline |
//! | `api` | what an operator asks |
//!
//! Not for: batches that a destination refuses because of something that an operator mends (their stream stands still, see
//! `crate::destination`), batches that it takes later (see [`crate::spill`]).

mod alone;
pub(crate) mod api;
mod card;
mod format;
pub mod inspect;
mod store;
mod telling;

pub(crate) use self::{
    alone::{again, alone},
    card::{Card, Filter},
    store::{Dead, Gone, Letters},
};
