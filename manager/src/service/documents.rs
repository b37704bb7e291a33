//! What parts are to go by over their files, as somebody said it last: where the topics of each bus cluster go, and
//! what the agents of a zone, or one of them, collect.
//!
//! # Operation
//! A part says with each report which version it took or refused; the answer brings the document while that is
//! another than the one that counts. So no part needs an open port for it, and one that was away hears of it when
//! it is back. What a document means is for the parts to judge: each takes it whole or refuses it. What an agent is
//! given itself counts in place of its zone's.
//!
//! What counts is in memory; [`crate::store::documents`] keeps it. Pure but for its lock.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tributary_common::{
    crc::crc32c,
    given::{Given, GivenHealth},
    report::Reporter,
};

use crate::store::documents::{DocumentRow, Scope};

/// What counts for each.
#[derive(Debug, Default)]
struct Known {
    last: BTreeMap<Scope, DocumentRow>,
    /// The greatest number that was given.
    number: i64,
}

/// What parts are to go by.
#[derive(Debug)]
pub(crate) struct Documents {
    known: Mutex<Known>,
}

impl Documents {
    /// What is stored.
    pub(crate) fn new(rows: Vec<DocumentRow>) -> Self {
        let number = rows.iter().map(|row| row.id).max().unwrap_or_default();
        let last = rows.into_iter().map(|row| (row.scope.clone(), row));
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
        scope: Scope,
        who: String,
        text: Option<String>,
        now_ms: i64,
    ) -> DocumentRow {
        let mut known = self.lock();
        // Never twice the same, also when the clock was set back.
        let id = now_ms.max(known.number + 1);
        known.number = id;
        let sum = text.as_deref().map(|text| crc32c(text.as_bytes()));
        let version = match sum {
            Some(sum) => format!("{id}-{sum:08x}"),
            None => format!("{id}-file"),
        };
        DocumentRow {
            id,
            scope,
            version,
            at_ms: now_ms,
            who,
            text,
        }
    }

    /// A row that is stored counts, unless a later one does.
    pub(crate) fn put(&self, row: DocumentRow) {
        let mut known = self.lock();
        let before = known.last.get(&row.scope);
        if before.is_none_or(|before| before.id < row.id) {
            known.last.insert(row.scope.clone(), row);
        }
    }

    /// What counts for these parts.
    pub(crate) fn of(&self, scope: &Scope) -> Option<DocumentRow> {
        self.lock().last.get(scope).cloned()
    }

    /// A part has reported, and says what it has; what it is to be told. One that says nothing of it would not
    /// take any.
    pub(crate) fn heard(&self, reporter: &Reporter, told: Option<&GivenHealth>) -> Option<Given> {
        let told = told?;
        let known = self.lock();
        let row = match reporter {
            Reporter::Bus { cluster, .. } => {
                let scope = Scope::Cluster(cluster.as_str().to_owned());
                known.last.get(&scope)?
            }
            Reporter::Agent { id, zone, .. } => {
                let own = known.last.get(&Scope::Agent(id.as_str().to_owned()));
                let zone = known.last.get(&Scope::Zone(zone.as_str().to_owned()));
                let all = || [own, zone].into_iter().flatten();
                // Without any, what was taken back last is what the agent has not heard of.
                let given = all().find(|row| row.text.is_some());
                given.or_else(|| all().max_by_key(|row| row.id))?
            }
        };
        // One that refused a later one hears again of what it has: then it is not at fault any more.
        let has = row.version == told.version && told.refused.is_empty();
        // A part that never heard of any goes by its file already.
        let nothing = row.text.is_none() && told.version.is_empty() && told.refused.is_empty();
        let known = has || row.version == told.refused || nothing;
        (!known).then(|| Given {
            version: row.version.clone(),
            text: row.text.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tributary_common::ids::{AgentId, Name, NodeId, Zone};

    use super::*;

    fn bus(cluster: &str) -> Reporter {
        Reporter::Bus {
            id: NodeId::new("b1").unwrap(),
            cluster: Name::new(cluster).unwrap(),
            zone: Zone::new("dc1").unwrap(),
        }
    }

    fn agent(id: &str) -> Reporter {
        Reporter::Agent {
            id: AgentId::new(id).unwrap(),
            host: id.to_owned(),
            zone: Zone::new("dc1").unwrap(),
        }
    }

    /// What a part is told that took and refused these versions.
    fn told(all: &Documents, part: &Reporter, version: &str, refused: &str) -> Option<Given> {
        let has = GivenHealth {
            version: version.to_owned(),
            refused: refused.to_owned(),
            ..GivenHealth::default()
        };
        assert_eq!(all.heard(&bus("other"), Some(&has)), None);
        all.heard(part, Some(&has))
    }

    fn ask(all: &Documents, scope: Scope, text: Option<&str>) -> DocumentRow {
        let row = all.row(scope, "me".to_owned(), text.map(str::to_owned), 1_000);
        all.put(row.clone());
        row
    }

    fn dc1() -> Scope {
        Scope::Cluster("dc1".to_owned())
    }

    #[test]
    fn a_node_is_told_until_it_has_taken_or_refused_what_counts() {
        let all = Documents::new(Vec::new());
        let node = bus("dc1");
        let told = |version: &str, refused: &str| told(&all, &node, version, refused);
        assert_eq!(told("", ""), None);
        let first = ask(&all, dc1(), Some("a"));
        assert_eq!(told("", "").unwrap().text.as_deref(), Some("a"));
        assert_eq!(told(&first.version, ""), None);
        assert_eq!(told("", &first.version), None);
        // The same text once more is to be tried once more.
        let second = ask(&all, dc1(), Some("a"));
        assert_ne!(first.version, second.version);
        assert!(told(&first.version, "").is_some());
        // Who refused another one hears what counts, though it has it.
        assert!(told(&second.version, &first.version).is_some());
        all.put(first);
        assert_eq!(all.of(&dc1()).unwrap(), second);
        assert_eq!(all.heard(&node, None), None);
        assert_eq!(all.heard(&agent("a1"), Some(&GivenHealth::default())), None);
    }

    #[test]
    fn what_is_taken_back_is_told_to_nodes_that_have_it() {
        let all = Documents::new(Vec::new());
        let node = bus("dc1");
        let first = ask(&all, dc1(), Some("a"));
        let back = ask(&all, dc1(), None);
        assert_eq!(told(&all, &node, &first.version, "").unwrap().text, None);
        assert_eq!(told(&all, &node, &back.version, ""), None);
        assert_eq!(told(&all, &node, "", ""), None);
        // What is stored counts after a restart, and numbers go on.
        let again = Documents::new(vec![back.clone()]);
        assert_eq!(again.of(&dc1()).unwrap(), back);
        assert!(ask(&again, dc1(), Some("b")).id > back.id);
    }

    #[test]
    fn an_agent_goes_by_its_own_document_then_by_its_zones() {
        let all = Documents::new(Vec::new());
        let (one, other) = (agent("a1"), agent("a2"));
        let text = |part: &Reporter, version: &str| told(&all, part, version, "")?.text;
        let zone = ask(&all, Scope::Zone("dc1".to_owned()), Some("z"));
        assert_eq!(text(&one, "").as_deref(), Some("z"));
        let own = ask(&all, Scope::Agent("a1".to_owned()), Some("o"));
        assert_eq!(text(&one, &zone.version).as_deref(), Some("o"));
        assert_eq!(told(&all, &one, &own.version, ""), None);
        assert_eq!(told(&all, &other, &zone.version, ""), None);
        // Without its own it is the zone's again, though that was asked for before.
        ask(&all, Scope::Agent("a1".to_owned()), None);
        assert_eq!(text(&one, &own.version).as_deref(), Some("z"));
        // Without any it is the file.
        let back = ask(&all, Scope::Zone("dc1".to_owned()), None);
        let last = told(&all, &one, &zone.version, "").unwrap();
        assert_eq!((last.text, last.version), (None, back.version));
    }
}
