//! What an operator asks of resource groups, over the admin port: list, move, progress.
//!
//! Answers are JSON. Not for: what they are (see [`super::grouped`]).

use std::sync::Arc;

use serde_json::{Value, json};
use tributary_common::ids::Class;

use crate::{node::Node, site::Site};

/// What is asked for.
#[derive(Debug, Default)]
struct Asked {
    destination: Option<String>,
    topic: Option<String>,
    to: Option<Class>,
}

fn asked(query: &str) -> Result<Asked, String> {
    let mut asked = Asked::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "destination" => asked.destination = Some(value.to_owned()),
            "topic" => asked.topic = Some(value.to_owned()),
            "to" => {
                let class = value.parse::<Class>();
                asked.to = Some(class.map_err(|error| error.to_string())?);
            }
            other => {
                return Err(format!(
                    "{other:?} is unknown; there are destination, topic, to"
                ));
            }
        }
    }
    Ok(asked)
}

/// The destinations with groups that are meant, with their groups.
fn meant(node: &Node, asked: &Asked) -> Result<Vec<Arc<Site>>, String> {
    let routing = node.routing();
    let with = routing.sites().map(|(site, _leaving)| site);
    let with = with.filter(|site| site.destination.grouped().is_some());
    let all: Vec<_> = with.map(Arc::clone).collect();
    let Some(name) = &asked.destination else {
        return Ok(all);
    };
    let names: Vec<_> = all.iter().map(|site| site.name.to_string()).collect();
    let mut named = all.into_iter();
    let one = named.find(|site| site.name.as_str() == name);
    one.map(|one| vec![one]).ok_or_else(|| {
        let names = names.join(", ");
        format!("{name:?} is no destination with groups; there are {names}")
    })
}

fn each(
    node: &Node,
    query: &str,
    ask: impl Fn(&super::grouped::Grouped) -> anyhow::Result<Value>,
) -> Result<Value, String> {
    let sites = meant(node, &asked(query)?)?;
    let said = sites.iter().filter_map(|site| site.destination.grouped());
    let said = said.map(|grouped| ask(grouped).map_err(|error| format!("{error:#}")));
    let said: Vec<Value> = said.collect::<Result<_, _>>()?;
    Ok(json!({ "destinations": said }))
}

/// The groups, and how topics lie.
///
/// # Errors
/// What is wrong with the query, or with the cluster.
pub(crate) fn list(node: &Node, query: &str) -> Result<Value, String> {
    each(node, query, super::grouped::Grouped::list)
}

/// How far moves are.
///
/// # Errors
/// What is wrong with the query, or with the cluster.
pub(crate) fn progress(node: &Node, query: &str) -> Result<Value, String> {
    each(node, query, super::grouped::Grouped::progress)
}

/// Begins a move.
///
/// # Errors
/// What is wrong with the query, or with the cluster.
pub(crate) fn begin_move(node: &Node, query: &str) -> Result<Value, String> {
    let asked = asked(query)?;
    if asked.destination.is_none() {
        return Err("say which: destination=NAME".to_owned());
    }
    let sites = meant(node, &asked)?;
    let grouped = sites.first().and_then(|site| site.destination.grouped());
    let grouped = grouped.ok_or_else(|| "there is none".to_owned())?;
    let moved = grouped.begin_move(asked.topic.as_deref(), asked.to);
    moved.map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_names_no_group_is_refused() {
        let good = asked("destination=k&topic=web&to=P1").unwrap();
        assert_eq!(good.to, Some(Class::P1));
        assert_eq!(good.topic.as_deref(), Some("web"));
        assert!(asked("to=P9").unwrap_err().contains("P9"));
        assert!(asked("form=P1").unwrap_err().contains("form"));
    }
}
