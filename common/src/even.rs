//! What an even spread of agents over the nodes of a bus cluster is.
//!
//! Pure. For whoever opens a window: an operator's tool, or the manager. Not for: who goes and who is
//! turned away (that is the bus's).

/// A spread below this is even, in percent of the share.
pub const EVEN_PERCENT: u64 = 10;
/// The longest window, in seconds.
pub const LONGEST_WINDOW_S: u64 = 3_600;

/// The connections that each node is to have, of those that the nodes have.
#[must_use]
pub fn share(connections: &[u64]) -> u64 {
    let total: u64 = connections.iter().sum();
    total.div_ceil(connections.len().max(1) as u64)
}

/// The difference between the fullest and the emptiest node in percent of the share; 0 when it is one
/// connection, which cannot be less.
#[must_use]
pub fn spread_percent(connections: &[u64]) -> u64 {
    let most = connections.iter().max().copied().unwrap_or_default();
    let least = connections.iter().min().copied().unwrap_or_default();
    let apart = most - least;
    if apart <= 1 {
        return 0;
    }
    (apart * 100).div_ceil(share(connections).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_told_in_percent_of_a_share() {
        let check = |connections: &[u64], of_each: u64, percent: u64| {
            let seen = (share(connections), spread_percent(connections));
            assert_eq!(seen, (of_each, percent), "{connections:?}");
        };
        check(&[], 0, 0);
        check(&[0, 0], 0, 0);
        check(&[100, 100, 101], 101, 0);
        check(&[300, 0, 0], 100, 300);
        check(&[105, 95, 100], 100, 10);
        check(&[104, 96, 100], 100, 8);
        check(&[1, 3], 2, 100);
    }
}
