//! By what the node routes now: the rules, and the destinations of this life. Swapped whole.
//!
//! A destination has a place that stays its own as long as the node lives, also when it leaves and comes
//! back: what is on its way names it by that. Rules that counted before are remembered for a while: a
//! batch that went the whole way under them is not sent the new way when it comes again.
//!
//! Not for: patterns (see [`crate::route`]), reading a new configuration (see [`crate::live`]).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tributary_common::ids::{BatchId, Name, Topic};

use crate::{
    done::DestinationNo,
    journal::Journal,
    route::{Branch, Table},
    site::Site,
};

/// Rules that do not count any more are remembered for so long: by then every batch that was delivered
/// under them and whose answer was lost has come again.
const REMEMBER: Duration = Duration::from_secs(600);
/// At most so many of them.
const REMEMBER_MOST: usize = 16;

/// Where a destination stands.
#[derive(Debug, Clone)]
struct Seat {
    name: Name,
    no: DestinationNo,
    site: Option<Arc<Site>>,
    /// It is not configured any more, and has something to finish.
    leaving: bool,
}

/// The rules and the destinations.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routing {
    table: Arc<Table>,
    seats: Vec<Seat>,
    /// The newest last.
    former: Vec<(Instant, Arc<Table>)>,
}

impl Routing {
    /// Rules for these destinations: the n-th of the config is the n-th here.
    pub(crate) fn new(table: Table, sites: Vec<Arc<Site>>) -> Self {
        let mut routing = Self::default();
        for site in sites {
            routing.seat(site);
        }
        routing.table = Arc::new(table);
        routing.tell();
        routing
    }

    /// Tells the destinations what counts.
    fn tell(&self) {
        for (place, seat) in self.seats.iter().enumerate() {
            if let Some(site) = &seat.site {
                site.destination.route_by(&self.table, place);
            }
        }
    }

    /// The rules that count.
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// Puts a destination in its place; gives the place.
    pub(crate) fn seat(&mut self, site: Arc<Site>) -> usize {
        let (name, no) = (site.name.clone(), site.no());
        let place = self.seats.iter().position(|seat| seat.name == name);
        site.destination
            .route_by(&self.table, place.unwrap_or(self.seats.len()));
        let seat = Seat {
            name,
            no,
            site: Some(site),
            leaving: false,
        };
        match place {
            Some(place) => {
                if let Some(there) = self.seats.get_mut(place) {
                    *there = seat;
                }
                place
            }
            None => {
                self.seats.push(seat);
                self.seats.len() - 1
            }
        }
    }

    /// The place of a destination that is here.
    pub(crate) fn place_of(&self, name: &Name) -> Option<usize> {
        let here = |seat: &Seat| seat.name == *name && seat.site.is_some();
        self.seats.iter().position(here)
    }

    /// Other rules count from now on.
    pub(crate) fn route_by(&mut self, mut table: Table) {
        table.go_on_from(&self.table);
        let before = std::mem::replace(&mut self.table, Arc::new(table));
        self.former.push((Instant::now(), before));
        if self.former.len() > REMEMBER_MOST {
            self.former.remove(0);
        }
        self.tell();
    }

    /// A destination is not configured any more; it stays until it has nothing to finish.
    pub(crate) fn leave(&mut self, name: &Name) {
        for seat in self.seats.iter_mut().filter(|seat| seat.name == *name) {
            seat.leaving = true;
        }
    }

    /// Whether [`Routing::tidy`] has something to do.
    pub(crate) fn is_untidy(&self) -> bool {
        let done =
            |seat: &Seat| seat.leaving && seat.site.as_ref().is_some_and(|site| site.is_empty());
        let old = |(at, _table): &(Instant, Arc<Table>)| at.elapsed() >= REMEMBER;
        self.seats.iter().any(done) || self.former.iter().any(old)
    }

    /// Takes the destinations that are leaving and have nothing to finish out, and forgets rules that
    /// are old.
    pub(crate) fn tidy(&mut self) -> Vec<Arc<Site>> {
        self.former.retain(|(at, _table)| at.elapsed() < REMEMBER);
        let done = |seat: &&mut Seat| {
            seat.leaving && seat.site.as_ref().is_some_and(|site| site.is_empty())
        };
        let gone = self.seats.iter_mut().filter(done).filter_map(|seat| {
            seat.leaving = false;
            seat.site.take()
        });
        gone.collect()
    }

    /// The destination of a place.
    pub(crate) fn site(&self, place: usize) -> Option<&Arc<Site>> {
        self.seats.get(place)?.site.as_ref()
    }

    /// All destinations that are here, with whether they are leaving.
    pub(crate) fn sites(&self) -> impl Iterator<Item = (&Arc<Site>, bool)> {
        let here = self.seats.iter();
        here.filter_map(|seat| Some((seat.site.as_ref()?, seat.leaving)))
    }

    /// Whether the disk of a place has the batch.
    fn spilled(&self, place: usize, batch: BatchId) -> bool {
        let spill = self.site(place).and_then(|site| site.spill.as_ref());
        spill.is_some_and(|spill| spill.holds(batch))
    }

    /// Where a topic's batches went by the rules that counted before, the newest first.
    fn formerly<'a>(&'a self, topic: &'a Topic) -> impl Iterator<Item = &'a [Branch]> {
        let tables = self.former.iter().rev();
        tables.filter_map(move |(_at, table)| table.find(topic))
    }

    /// The branches of the batch's topic whose destination has it not, nor the disk for it. None when it
    /// went the whole way under rules that counted before. `None`: no rule matches.
    pub(crate) fn missing<'a>(
        &'a self,
        journal: &Journal,
        topic: &'a Topic,
        batch: BatchId,
    ) -> Option<Vec<&'a Branch>> {
        let branches = self.table.find(topic);
        let lists: Vec<&[Branch]> = branches.into_iter().chain(self.formerly(topic)).collect();
        // The disk is asked before the journal: a batch that is drained in between is in one of them.
        let places = lists.iter().copied().flatten();
        let spilled: Vec<usize> = places
            .flat_map(Branch::places)
            .filter(|&place| self.spilled(place, batch))
            .collect();
        let memory = journal.memory();
        // It is enough that one of those that stand in for each other has it.
        let has = |branch: &Branch| {
            branch.places().any(|place| {
                let no = self.seats.get(place).map(|seat| seat.no);
                spilled.contains(&place) || no.is_some_and(|no| memory.done.contains(no, batch))
            })
        };
        let mut lists = lists.into_iter();
        let missing = match branches {
            Some(_) => {
                let now = lists.next().unwrap_or_default();
                let missing: Vec<_> = now.iter().filter(|branch| !has(branch)).collect();
                Some(missing)
            }
            None => None,
        };
        if missing.as_ref().is_some_and(Vec::is_empty) {
            return missing;
        }
        match lists.any(|list| list.iter().all(has)) {
            true => Some(Vec::new()),
            false => missing,
        }
    }

    /// Whether every destination of the batch's topic has it, by the journal, or had to have it by the
    /// rules that counted before.
    pub(crate) fn is_delivered(&self, journal: &Journal, topic: &Topic, batch: BatchId) -> bool {
        let memory = journal.memory();
        let has = |branch: &Branch| {
            let mut seats = branch.places().filter_map(|place| self.seats.get(place));
            seats.any(|seat| memory.done.contains(seat.no, batch))
        };
        let mut lists = self
            .table
            .find(topic)
            .into_iter()
            .chain(self.formerly(topic));
        lists.any(|list| list.iter().all(has))
    }
}
