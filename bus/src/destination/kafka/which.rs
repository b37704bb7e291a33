//! Which cluster a destination is: its id is noted in the journal when the first topic is opened, and a
//! cluster of another id under the same name is not written to.
//!
//! A wrong address would otherwise spread a topic over two clusters, and what the journal says of the
//! first one's offsets would be taken for the second one's. Pure. Not for: asking (see [`super::open`]).

use crate::{
    done::DestinationNo,
    journal::{format::Record, memory::Memory},
};

/// Begins the name of the target that holds the id; no topic has such a name.
const PREFIX: &str = "=cluster:";

/// What is to be written of a cluster, so that it is known by its id in later lives.
///
/// # Errors
/// With the id that it had before, where that was another one.
pub(super) fn same(
    memory: &mut Memory,
    destination: DestinationNo,
    id: &str,
) -> Result<Record, String> {
    let known = memory.targets_of(destination).into_iter();
    let known =
        known.filter_map(|(_no, target)| Some(target.name.strip_prefix(PREFIX)?.to_owned()));
    if let Some(other) = known.into_iter().find(|known| known != id) {
        return Err(other);
    }
    Ok(Record::Position {
        target: memory.target(destination, &format!("{PREFIX}{id}")),
        partition: 0,
        end: 0,
        floor: None,
    })
}

#[cfg(test)]
mod tests {
    use tributary_common::ids::Name;

    use super::*;

    #[test]
    fn a_cluster_is_known_by_its_id_and_another_one_is_told() {
        let mut memory = Memory::default();
        let [one, other] =
            ["one", "other"].map(|name| memory.destination(&Name::new(name).unwrap()));
        memory.target(one, "web");
        assert!(same(&mut memory, one, "AAA").is_ok());
        assert!(same(&mut memory, one, "AAA").is_ok());
        assert_eq!(same(&mut memory, one, "BBB"), Err("AAA".to_owned()));
        assert!(same(&mut memory, other, "BBB").is_ok());
    }
}
