//! The manager as a whole: in this process, on a free port, on a real database file.

#[cfg(test)]
mod clusters;
#[cfg(test)]
mod collection;
#[cfg(test)]
mod console;
#[cfg(test)]
mod dead;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod live;
#[cfg(test)]
mod reports;
#[cfg(test)]
mod rig;
mod routes;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod topics;
