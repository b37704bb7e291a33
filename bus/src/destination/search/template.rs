//! The index template of a target, installed where there is none.
//!
//! One that is there under its name is left as it is: people may change it. Not for: indices, which the
//! server makes by itself.

use serde_json::{Value, json};

/// What is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: the server's own templates count.
    None,
    /// A template for indices.
    Index,
    /// A template that makes the target a data stream.
    DataStream,
}

/// Ours count before the templates that the servers bring along (100).
const PRIORITY: u32 = 200;

/// The template's name.
pub(super) fn name(target: &str) -> String {
    let plain = target.chars().filter(|c| !matches!(c, '{' | '}'));
    format!("tributary-{}", plain.collect::<String>())
}

/// The template of a target.
pub(super) fn body(kind: Kind, target: &str) -> Value {
    let pattern = target.replace("{date}", "*").replace("{hour}", "*");
    let mut template = json!({
        "index_patterns": [pattern],
        "priority": PRIORITY,
        "template": { "mappings": {
            "dynamic_templates": [
                { "labels": { "path_match": "labels.*", "mapping": { "type": "keyword" } } },
            ],
            "properties": {
                "@timestamp": { "type": "date" },
                "message": { "type": "text" },
                "host": { "type": "keyword" },
                "file": { "type": "keyword" },
                "offset": { "type": "long" },
                "topic": { "type": "keyword" },
                "labels": { "type": "object" },
            },
        } },
        "_meta": { "made_by": "tributary" },
    });
    if kind == Kind::DataStream
        && let Some(fields) = template.as_object_mut()
    {
        fields.insert("data_stream".to_owned(), json!({}));
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_follows_from_the_target() {
        let target = "logs-web-{date}-{hour}";
        assert_eq!(name(target), "tributary-logs-web-date-hour");
        let index = body(Kind::Index, target);
        assert_eq!(index["index_patterns"], json!(["logs-web-*-*"]));
        assert!(index.get("data_stream").is_none());
        assert_eq!(body(Kind::DataStream, "x")["data_stream"], json!({}));
    }
}
