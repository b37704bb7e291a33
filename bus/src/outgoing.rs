//! The connections that this node has made: to brokers, search nodes, HDFS, the manager. They are few,
//! however many agents come in.
//!
//! The kernel is asked, so those of every library count, librdkafka's too: which sockets are this process's
//! by `/proc/self/fd`, where they lead by `/proc/self/net/tcp` (proc(5)). With 10,000 agents on the same host that takes
//! 0.14 s: for a person who looks, not for a clock.
//!
//! Not for: agents, who are counted as they come (see [`crate::node`]).

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    net::SocketAddr,
};

use procfs::net::{TcpNetEntry, TcpState, tcp, tcp6};

/// How many connections lead where; empty where the kernel does not say.
pub(crate) fn outgoing() -> BTreeMap<SocketAddr, u64> {
    let ours = sockets();
    let tables = [tcp(), tcp6()].into_iter().flatten().flatten();
    let entries: Vec<TcpNetEntry> = tables.filter(|entry| ours.contains(&entry.inode)).collect();
    let is_door = |entry: &&TcpNetEntry| entry.state == TcpState::Listen;
    let doors: HashSet<u16> = entries
        .iter()
        .filter(is_door)
        .map(|door| door.local_address.port())
        .collect();
    let mut count = BTreeMap::new();
    for entry in entries {
        if entry.state == TcpState::Established && !doors.contains(&entry.local_address.port()) {
            let remote = entry.remote_address;
            let to = SocketAddr::new(remote.ip().to_canonical(), remote.port());
            *count.entry(to).or_default() += 1;
        }
    }
    count
}

/// The inodes of this process's sockets.
fn sockets() -> HashSet<u64> {
    let descriptors = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let inode = |descriptor: fs::DirEntry| {
        let what = fs::read_link(descriptor.path()).ok()?;
        let what = what.to_str()?.strip_prefix("socket:[")?;
        what.strip_suffix(']')?.parse().ok()
    };
    descriptors.filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_leads_out_is_counted_by_where_it_leads_and_what_came_in_is_not() {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = door.local_addr().unwrap();
        let out: Vec<TcpStream> = (0..3)
            .map(|_no| TcpStream::connect(address).unwrap())
            .collect();
        let came: Vec<TcpStream> = out.iter().map(|_out| door.accept().unwrap().0).collect();
        let count = outgoing();
        assert_eq!(count.get(&address), Some(&3), "{count:?}");
        for out in &out {
            let their = out.local_addr().unwrap();
            assert_eq!(count.get(&their), None, "{count:?}");
        }
        drop(came);
    }
}
