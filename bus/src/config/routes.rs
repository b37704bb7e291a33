//! The rules of a configuration: whether what they name is there, and can stand in for what it shall.
//!
//! Called by the check of the whole. Not for: single keys, which the schema checks.

use std::{
    collections::{HashMap, HashSet},
    iter::once,
    sync::Arc,
};

use tributary_common::{config::Checker, ids::Name};

use super::{
    Raw, RawBranch, RawKind,
    rolled::{RawFile, RawHdfs},
    search,
};
use crate::{
    destination::kafka::security,
    route::{Branch, Create, Pattern, Route, Standby},
    switch::Switch,
    template::Template,
};

/// What the destinations of a configuration are, by their names.
struct Known<'a> {
    raw: &'a Raw,
    numbers: HashMap<&'a Name, usize>,
}

/// The rules, as far as they are good.
pub(super) fn check(raw: &Raw, checker: &mut Checker) -> Vec<Route> {
    let numbers = raw.destination.iter().enumerate();
    let numbers = numbers.map(|(no, one)| (&one.name, no)).collect();
    let known = Known { raw, numbers };
    let mut routes = Vec::new();
    for (at, route) in raw.route.iter().enumerate() {
        let branches = route.to.iter().enumerate().filter_map(|(place, branch)| {
            let key = format!("route[{at}].to[{place}]");
            check_branch((&route.topic, branch), &key, &known, checker)
        });
        let to: Vec<Branch> = branches.collect();
        let mut seen = HashSet::new();
        if !to.iter().all(|branch| seen.insert(branch.destination)) {
            checker.fault(&format!("route[{at}].to"), "names a destination twice");
        }
        let mut standby = to.iter().flat_map(|branch| &branch.standby);
        if !standby.all(|standby| seen.insert(standby.destination)) {
            let why = "names a destination as a standby that has the topic's batches already, or stands by twice";
            checker.fault(&format!("route[{at}].to"), why);
        }
        if let Some(pattern) = Pattern::new(&route.topic) {
            routes.push(Route { pattern, to });
        }
    }
    routes
}

impl Known<'_> {
    /// The number of a destination.
    fn find(&self, name: &Name, key: &str, checker: &mut Checker) -> Option<usize> {
        let found = self.numbers.get(name).copied();
        if found.is_none() {
            let mut known: Vec<&str> = self.numbers.keys().map(|name| name.as_str()).collect();
            known.sort_unstable();
            let (name, known) = (name.as_str(), known.join(", "));
            let why = format!("{name:?} is no [[destination]]; there are {known}");
            checker.fault(key, why);
        }
        found
    }

    fn kind(&self, no: usize) -> Option<&RawKind> {
        Some(&self.raw.destination.get(no)?.kind)
    }

    /// Why the bus creates no topics there.
    fn creates_not(&self, no: usize) -> Option<String> {
        let name = self.raw.destination.get(no)?.name.as_str();
        match self.kind(no)? {
            RawKind::Kafka {
                groups: Some(_), ..
            } => Some(format!(
                "{name:?} has groups, and creates topics inside them; leave create out"
            )),
            RawKind::Kafka { options, .. } => {
                let beyond = security::beyond(options)?;
                Some(format!(
                    "cannot be used with the options of {name:?}: {beyond}"
                ))
            }
            other => Some(format!(
                "{name:?} is of kind {}, which has no topics; leave create out",
                other.as_str()
            )),
        }
    }

    /// The name of a topic's batches at a destination: a file destination's own path says it.
    fn target(
        &self,
        no: usize,
        branch: &RawBranch,
        key: &str,
        checker: &mut Checker,
    ) -> Option<Template> {
        let kind = self.kind(no)?;
        let text = match kind {
            RawKind::Kafka { .. } | RawKind::Discard => &branch.topic,
            RawKind::File(RawFile { path, .. }) | RawKind::Hdfs(RawHdfs { path, .. }) => path,
            RawKind::Elasticsearch(search) => {
                let index = branch.index.as_deref().unwrap_or("{topic}");
                return search::index(index, search.is_stream(), key, checker);
            }
        };
        if branch.index.is_some() {
            checker.fault(key, "has an index, and is no elasticsearch destination");
        }
        let target = checker.take(key, Template::parse(text))?;
        if matches!(kind, RawKind::Kafka { .. }) && target.has_time() {
            checker.warn(key, "makes a topic of its own for every date or hour");
        }
        Some(target)
    }
}

fn check_branch(
    (pattern, branch): (&str, &RawBranch),
    key: &str,
    known: &Known<'_>,
    checker: &mut Checker,
) -> Option<Branch> {
    let at = format!("{key}.destination");
    let destination = known.find(&branch.destination, &at, checker)?;
    let target = known.target(destination, branch, &at, checker)?;
    let standby = check_standby(branch, destination, key, known, checker);
    let all = standby.iter().map(|standby| standby.destination);
    for no in once(destination).chain(all) {
        if let Some(why) = branch.create.and_then(|_create| known.creates_not(no)) {
            checker.fault(&format!("{key}.create"), why);
        }
    }
    let mut names = vec![branch.destination.clone()];
    names.extend(branch.standby.iter().cloned());
    Some(Branch {
        destination,
        target,
        standby,
        create: branch.create.map(|raw| Create {
            partitions: raw.partitions,
            replicas: raw.replicas,
        }),
        switch: Arc::new(Switch::new(pattern, names)),
    })
}

fn check_standby(
    branch: &RawBranch,
    destination: usize,
    key: &str,
    known: &Known<'_>,
    checker: &mut Checker,
) -> Vec<Standby> {
    let at = format!("{key}.standby");
    let mut standby: Vec<Standby> = Vec::new();
    for name in &branch.standby {
        let Some(number) = known.find(name, &at, checker) else {
            continue;
        };
        let (name, own) = (name.as_str(), branch.destination.as_str());
        let kinds = [number, destination].map(|no| known.kind(no).map(RawKind::as_str));
        let wrong = match kinds {
            _ if number == destination => Some(format!("{name:?} cannot stand in for itself")),
            _ if standby.iter().any(|other| other.destination == number) => {
                Some(format!("names {name:?} twice"))
            }
            [Some(kind), Some(other)] if kind != other => Some(format!(
                "{name:?} is of kind {kind} and cannot stand in for {own:?}, which is of kind {other}"
            )),
            _same => None,
        };
        if let Some(why) = wrong {
            checker.fault(&at, why);
            continue;
        }
        if let Some(target) = known.target(number, branch, &at, checker) {
            standby.push(Standby {
                destination: number,
                target,
            });
        }
    }
    if !standby.is_empty() && known.raw.spill.limits().is_none() {
        let why = "does little without a spill: what is on its way when the destination goes away holds up its agents until it is back";
        checker.warn(&at, why);
    }
    standby
}
