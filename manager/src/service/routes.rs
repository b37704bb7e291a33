//! Where the topics of each bus cluster are to go, as somebody said it last.
//!
//! # Operation
//! A node says with each report which version it took or refused; the answer brings the document while that is
//! another than the one that counts. So no node needs an open port for it, and one that was away hears of it when
//! it is back. What the document means is for the nodes to judge: each takes it whole or refuses it.
//!
//! What counts is in memory; [`crate::store::routes`] keeps it. Pure but for its lock.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tributary_common::{
    crc::crc32c,
    report::{Health, Reporter, RoutesDocument},
};

use crate::store::routes::RoutesRow;

/// What counts of each cluster.
#[derive(Debug, Default)]
struct Known {
    last: BTreeMap<String, RoutesRow>,
    /// The greatest number that was given.
    number: i64,
}

/// Where topics are to go.
#[derive(Debug)]
pub(crate) struct Routes {
    known: Mutex<Known>,
}

impl Routes {
    /// What is stored.
    pub(crate) fn new(rows: Vec<RoutesRow>) -> Self {
        let number = rows.iter().map(|row| row.id).max().unwrap_or_default();
        let last = rows.into_iter().map(|row| (row.cluster.clone(), row));
        let last = last.collect();
        Self {
            known: Mutex::new(Known { last, number }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A row is put in whole, so a panic elsewhere leaves it usable.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A row for what somebody asks for now; it does not count yet. Its version is another one each time, also
    /// for the same text: who asks again wants it to be tried again.
    pub(crate) fn row(
        &self,
        cluster: &str,
        who: String,
        text: Option<String>,
        now_ms: i64,
    ) -> RoutesRow {
        let mut known = self.lock();
        // Never twice the same, also when the clock was set back.
        let id = now_ms.max(known.number + 1);
        known.number = id;
        let sum = text.as_deref().map(|text| crc32c(text.as_bytes()));
        let version = match sum {
            Some(sum) => format!("{id}-{sum:08x}"),
            None => format!("{id}-file"),
        };
        RoutesRow {
            id,
            cluster: cluster.to_owned(),
            version,
            at_ms: now_ms,
            who,
            text,
        }
    }

    /// A row that is stored counts, unless a later one does.
    pub(crate) fn put(&self, row: RoutesRow) {
        let mut known = self.lock();
        let before = known.last.get(&row.cluster);
        if before.is_none_or(|before| before.id < row.id) {
            known.last.insert(row.cluster.clone(), row);
        }
    }

    /// What counts of a cluster.
    pub(crate) fn of(&self, cluster: &str) -> Option<RoutesRow> {
        self.lock().last.get(cluster).cloned()
    }

    /// A node has reported; what it is to be told. One that says nothing of routes would not take any.
    pub(crate) fn heard(&self, reporter: &Reporter, health: &Health) -> Option<RoutesDocument> {
        let Reporter::Bus { cluster, .. } = reporter else {
            return None;
        };
        let told = health.routes.as_ref()?;
        let known = self.lock();
        let row = known.last.get(cluster.as_str())?;
        let knows = [&told.version, &told.refused].contains(&&row.version);
        // A node that never heard of any goes by its file already.
        let nothing = row.text.is_none() && told.version.is_empty() && told.refused.is_empty();
        (!knows && !nothing).then(|| RoutesDocument {
            version: row.version.clone(),
            text: row.text.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tributary_common::{
        ids::{Name, NodeId, Zone},
        report::RoutesHealth,
    };

    use super::*;

    fn bus(cluster: &str) -> Reporter {
        Reporter::Bus {
            id: NodeId::new("b1").unwrap(),
            cluster: Name::new(cluster).unwrap(),
            zone: Zone::new("dc1").unwrap(),
        }
    }

    /// What a node is told that took and refused these versions.
    fn told(routes: &Routes, version: &str, refused: &str) -> Option<RoutesDocument> {
        let health = Health {
            routes: Some(RoutesHealth {
                version: version.to_owned(),
                refused: refused.to_owned(),
                ..RoutesHealth::default()
            }),
            ..Health::default()
        };
        assert_eq!(routes.heard(&bus("other"), &health), None);
        routes.heard(&bus("dc1"), &health)
    }

    fn ask(routes: &Routes, text: Option<&str>) -> RoutesRow {
        let row = routes.row("dc1", "me".to_owned(), text.map(str::to_owned), 1_000);
        routes.put(row.clone());
        row
    }

    #[test]
    fn a_node_is_told_until_it_has_taken_or_refused_what_counts() {
        let routes = Routes::new(Vec::new());
        assert_eq!(told(&routes, "", ""), None);
        let first = ask(&routes, Some("a"));
        assert_eq!(told(&routes, "", "").unwrap().text.as_deref(), Some("a"));
        assert_eq!(told(&routes, &first.version, ""), None);
        assert_eq!(told(&routes, "", &first.version), None);
        // The same text once more is to be tried once more.
        let second = ask(&routes, Some("a"));
        assert_ne!(first.version, second.version);
        assert!(told(&routes, &first.version, "").is_some());
        routes.put(first);
        assert_eq!(routes.of("dc1").unwrap(), second);
        assert_eq!(routes.heard(&bus("dc1"), &Health::default()), None);
    }

    #[test]
    fn what_is_taken_back_is_told_to_nodes_that_have_it() {
        let routes = Routes::new(Vec::new());
        let first = ask(&routes, Some("a"));
        let back = ask(&routes, None);
        assert_eq!(told(&routes, &first.version, "").unwrap().text, None);
        assert_eq!(told(&routes, &back.version, ""), None);
        assert_eq!(told(&routes, "", ""), None);
        // What is stored counts after a restart, and numbers go on.
        let again = Routes::new(vec![back.clone()]);
        assert_eq!(again.of("dc1").unwrap(), back);
        assert!(ask(&again, Some("b")).id > back.id);
    }
}
