//! Which cluster a destination is: its id is noted in the journal before the first record is written to it, and a
//! cluster of another id under the same name is not written to.
//!
//! A wrong address would otherwise spread a topic over two clusters, and what the journal says of the
//! first one's offsets would be taken for the second one's. Pure. Not for: asking (see
//! [`super::kafka`], [`super::search`], [`super::rolled`]).

use tributary_common::ids::Name;

use crate::{
    done::DestinationNo,
    journal::{format::Record, memory::Memory},
};

/// Begins the name of the target that holds the id; no topic or index has such a name.
const PREFIX: &str = "=cluster:";

/// What is to be written of a cluster, so that it is known by its id in later lives.
///
/// # Errors
/// Where it had another id before: one sentence on what is wrong.
pub(super) fn same(
    memory: &mut Memory,
    (name, destination): (&Name, DestinationNo),
    id: &str,
) -> Result<Record, String> {
    if let Some(before) = known(memory, destination).filter(|known| known != id) {
        return Err(format!(
            "{name} is cluster {id} now, and was cluster {before} before: is the address right? Give \
             another cluster another name"
        ));
    }
    Ok(Record::Position {
        target: memory.target(destination, &format!("{PREFIX}{id}")),
        partition: 0,
        end: 0,
        floor: None,
    })
}

/// The id that a destination had before.
pub(super) fn known(memory: &Memory, destination: DestinationNo) -> Option<String> {
    let mut targets = memory.targets_of(destination).into_iter();
    targets.find_map(|(_no, target)| Some(target.name.strip_prefix(PREFIX)?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_known_by_its_id_and_another_one_is_told() {
        let mut memory = Memory::default();
        let names = ["one", "other"].map(|name| Name::new(name).unwrap());
        let [one, other] = names
            .each_ref()
            .map(|name| (name, memory.destination(name)));
        memory.target(one.1, "web");
        assert!(same(&mut memory, one, "AAA").is_ok());
        assert!(same(&mut memory, one, "AAA").is_ok());
        let wrong = same(&mut memory, one, "BBB").unwrap_err();
        assert!(
            wrong.starts_with("one is cluster BBB now, and was cluster AAA before"),
            "{wrong}"
        );
        assert!(same(&mut memory, other, "BBB").is_ok());
    }
}
