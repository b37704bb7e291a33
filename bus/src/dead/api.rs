//! What an operator asks of dead letters, over the admin port: list, show, replay, purge.
//!
//! Answers are JSON. Not for: what they are (see [`super::store`]).

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use tributary_common::{
    batch::{Decoder, MAX_DECODED_BYTES},
    header::BatchHeader,
};

use super::{Card, Filter, Gone, Letters};
use crate::{node::Node, site::Site};

/// The most letters that are shown at once.
const MAX_SHOWN: usize = 1000;

/// A destination with its letters.
type Kept = (Arc<Site>, Arc<Letters>);

/// What is asked for.
struct Asked {
    destination: Option<String>,
    filter: Filter,
    limit: usize,
}

fn asked(query: &str) -> Result<Asked, String> {
    let mut asked = Asked {
        destination: None,
        filter: Filter::default(),
        limit: 20,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number = || {
            let number = value.parse::<u64>();
            number.map_err(|_no_number| format!("{key} is {value:?}; expected is a number"))
        };
        match key {
            "destination" => asked.destination = Some(value.to_owned()),
            "topic" => asked.filter.topic = Some(value.to_owned()),
            "reason" => asked.filter.reason = Some(value.to_owned()),
            "no" => asked.filter.no = Some(number()?),
            "limit" => {
                asked.limit = usize::try_from(number()?).map_or(MAX_SHOWN, |n| n.min(MAX_SHOWN));
            }
            other => {
                return Err(format!(
                    "{other:?} is unknown; there are destination, topic, reason, no, limit"
                ));
            }
        }
    }
    Ok(asked)
}

/// The destinations with dead letters that are meant.
fn meant(node: &Node, asked: &Asked) -> Result<Vec<Kept>, String> {
    let routing = node.routing();
    let with = routing.sites().filter_map(|(site, _leaving)| {
        let letters = Arc::clone(site.letters.as_ref()?);
        Some((Arc::clone(site), letters))
    });
    let all: Vec<_> = with.collect();
    let Some(name) = &asked.destination else {
        return Ok(all);
    };
    let names: Vec<_> = all.iter().map(|(site, _)| site.name.to_string()).collect();
    let (meant, _others): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|(site, _)| site.name.as_str() == name);
    match meant.is_empty() {
        false => Ok(meant),
        true => Err(format!(
            "{name:?} is no destination with dead letters; there are {}",
            names.join(", ")
        )),
    }
}

/// One destination that is named.
fn named(node: &Node, query: &str) -> Result<(Arc<Site>, Arc<Letters>, Asked), String> {
    let asked = asked(query)?;
    if asked.destination.is_none() {
        return Err("say which: destination=NAME".to_owned());
    }
    let found = meant(node, &asked)?.pop();
    let (site, letters) = found.ok_or_else(|| "there is none".to_owned())?;
    Ok((site, letters, asked))
}

/// Letters by destination, topic and reason.
///
/// # Errors
/// What is wrong with the query.
pub(crate) fn list(node: &Node, query: &str) -> Result<Value, String> {
    let asked = asked(query)?;
    let destinations = meant(node, &asked)?;
    let destinations = destinations.iter().map(|(site, letters)| {
        let mut groups: BTreeMap<(String, String), (u16, u64, u64, u64)> = BTreeMap::new();
        for card in letters.cards(&asked.filter) {
            let key = (card.topic.to_string(), card.kind.to_string());
            let group = groups.entry(key).or_insert((card.status, 0, u64::MAX, 0));
            group.1 += 1;
            group.2 = group.2.min(card.first_ms);
            group.3 = group.3.max(card.last_ms);
        }
        let groups = groups
            .into_iter()
            .map(|((topic, reason), (status, count, first, last))| {
                json!({
                    "topic": topic, "reason": reason, "status": status, "letters": count,
                    "first_ms": first, "last_ms": last,
                })
            });
        json!({
            "destination": site.name,
            "replaying": site.destination.replaying(),
            "letters": letters.size().0,
            "bytes": letters.size().1,
            "max_bytes": letters.max(),
            "groups": groups.collect::<Vec<_>>(),
        })
    });
    Ok(json!({ "destinations": destinations.collect::<Vec<_>>() }))
}

/// The oldest letters of a destination, with their records.
///
/// # Errors
/// What is wrong with the query.
pub(crate) fn show(node: &Node, query: &str) -> Result<Value, String> {
    let (_site, letters, asked) = named(node, query)?;
    let cards = letters.cards(&asked.filter);
    let shown = cards
        .iter()
        .take(asked.limit)
        .map(|card| one(&letters, card));
    Ok(json!({ "letters": cards.len(), "shown": shown.collect::<Vec<_>>() }))
}

fn one(letters: &Letters, card: &Card) -> Value {
    let letter = match letters.read(card.no) {
        Ok(letter) => letter,
        Err(error) => return json!({ "no": card.no, "fault": format!("{error:#}") }),
    };
    let header = BatchHeader::decode(&letter.header).ok();
    let mut decoder = Decoder::new();
    let decoded = decoder.decode(&letter.payload, MAX_DECODED_BYTES).ok();
    let record = decoded
        .as_ref()
        .and_then(|decoded| decoded.records().next());
    json!({
        "no": card.no,
        "topic": card.topic,
        "batch": header.as_ref().map(|header| header.id().to_string()),
        "place": letter.at,
        "agent": header.as_ref().map(|header| header.agent.to_string()),
        "file": header.as_ref().map(|header| header.file.clone()),
        "target": letter.target,
        "status": card.status,
        "reason": letter.reason,
        "tries": card.tries,
        "first_ms": card.first_ms,
        "last_ms": card.last_ms,
        "timestamp_ms": record.map(|record| record.timestamp_ms),
        "value": record.map(|record| String::from_utf8_lossy(record.value).into_owned()),
    })
}

/// Gives letters to their destination once more.
///
/// # Errors
/// What is wrong with the query.
pub(crate) fn replay(node: &Node, query: &str) -> Result<Value, String> {
    let (site, _letters, asked) = named(node, query)?;
    if let Some(why) = site.destination.gone() {
        return Err(format!("the destination is down: {why}"));
    }
    let replaying = site.destination.replay(&asked.filter);
    let replaying = replaying.ok_or("this destination has no dead letters")?;
    Ok(json!({ "replaying": replaying }))
}

/// Gives letters up.
///
/// # Errors
/// What is wrong with the query, or with the disk.
pub(crate) fn purge(node: &Node, query: &str) -> Result<Value, String> {
    let (site, letters, asked) = named(node, query)?;
    let cards = letters.cards(&asked.filter);
    let numbers: Vec<u64> = cards.iter().map(|card| card.no).collect();
    let ended = letters.end(&numbers, Gone::Purged);
    let purged = ended.map_err(|error| format!("{error:#}"))?;
    metrics::counter!("tributary_bus_dead_purged_records_total", "destination" => site.name.to_string())
        .increment(purged as u64);
    tracing::warn!(destination = %site.name, purged, "dead letters were given up by an operator");
    Ok(json!({ "purged": purged }))
}
