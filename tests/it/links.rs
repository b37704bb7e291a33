//! The network between agent and bus, and between bus and broker, breaks in every way
//! that a TCP connection can break.

use std::time::Duration;

use anyhow::Result;
use tributary_tests::{
    cluster::{Layout, glob_of},
    kafka::{self, Kafka, free_port},
    proxy::{Mode, Proxy},
    scratch,
    writer::{Background, Schedule, Writer},
};

/// One agent behind a breaking hop to its bus; `breaks` runs while lines flow, and must leave the
/// hop passing.
fn check(name: &str, breaks: impl FnOnce(&Proxy)) -> Result<()> {
    scratch::scenario(name, |folder| {
        let kafka = kafka::shared()?;
        kafka.create_topic(name, 2)?;
        let writer = Writer::new(&folder.join("logs"), 1, 1)?;
        let bus_port = free_port()?;
        let proxy = Proxy::start(&format!("127.0.0.1:{bus_port}"))?;
        let cluster = Layout::new(folder, name)
            .delivers_to(&kafka.bootstrap(), &[])
            .agents_connect_to(proxy.address())
            .agent(&[glob_of(&writer)])
            .start_at(bus_port)?;
        let schedule = Schedule {
            lines: 12_000,
            per_second: 4_000,
            rotations: Vec::new(),
        };
        let background = Background::start(writer, schedule);
        breaks(&proxy);
        cluster
            .must_deliver(kafka, &[background.finish()?.written().clone()])
            .map(drop)
    })
}

/// The same with the hop between bus and broker: the broker tells its clients to connect to the
/// hop, so every connection of the bus goes over it. The broker and its clients are one for all
/// `breaks`, each with a topic of its own.
#[test]
fn a_breaking_network_to_the_broker_loses_and_doubles_nothing() -> Result<()> {
    let port = free_port()?;
    let proxy = Proxy::start(&format!("127.0.0.1:{port}"))?;
    let kafka = Kafka::start_at(&scratch::create("kafka-links")?, port, &proxy.address())?;
    let breaks: [(&str, Breaks); 3] = [
        ("broker-cut", |proxy| {
            for _ in 0..4 {
                flow();
                proxy.cut();
                flow();
                proxy.reset();
            }
        }),
        ("broker-silent", |proxy| {
            flow();
            proxy.set(Mode::Blackhole);
            std::thread::sleep(Duration::from_secs(4));
            proxy.reset();
            proxy.set(Mode::Pass);
        }),
        ("broker-slow", |proxy| {
            proxy.set(Mode::Delay(Duration::from_millis(60)));
            std::thread::sleep(Duration::from_secs(2));
            proxy.set(Mode::Pass);
        }),
    ];
    for (name, breaks) in breaks {
        scratch::scenario(name, |folder| {
            kafka.create_topic(name, 2)?;
            let writer = Writer::new(&folder.join("logs"), 1, 1)?;
            let cluster = Layout::new(folder, name)
                .delivers_to(&proxy.address(), &["\"socket.timeout.ms\" = \"1500\""])
                .agent(&[glob_of(&writer)])
                .start()?;
            let schedule = Schedule {
                lines: 12_000,
                per_second: 4_000,
                rotations: Vec::new(),
            };
            let background = Background::start(writer, schedule);
            breaks(&proxy);
            let written = [background.finish()?.written().clone()];
            cluster.must_deliver(&kafka, &written).map(drop)
        })?;
    }
    Ok(())
}

/// What happens to a hop while lines flow.
type Breaks = fn(&Proxy);

/// Lets lines flow for a moment.
fn flow() {
    std::thread::sleep(Duration::from_millis(250));
}

#[test]
fn connections_cut_reset_and_half_closed_lose_and_double_nothing() -> Result<()> {
    check("link-cut", |proxy| {
        for _ in 0..3 {
            flow();
            proxy.cut();
            flow();
            proxy.reset();
            flow();
            proxy.half_close();
        }
    })
}

#[test]
fn a_bus_that_refuses_connections_for_a_while_is_waited_for() -> Result<()> {
    check("link-refuse", |proxy| {
        flow();
        proxy.set(Mode::Refuse);
        proxy.cut();
        std::thread::sleep(Duration::from_secs(2));
        proxy.set(Mode::Pass);
    })
}

#[test]
fn a_silent_network_for_a_while_loses_and_doubles_nothing() -> Result<()> {
    check("link-blackhole", |proxy| {
        flow();
        proxy.set(Mode::Blackhole);
        std::thread::sleep(Duration::from_secs(3));
        proxy.set(Mode::Pass);
        flow();
        proxy.set(Mode::Blackhole);
        flow();
        proxy.reset();
        proxy.set(Mode::Pass);
    })
}

#[test]
fn a_slow_and_thin_network_only_takes_longer() -> Result<()> {
    check("link-slow", |proxy| {
        proxy.set(Mode::Delay(Duration::from_millis(40)));
        std::thread::sleep(Duration::from_secs(1));
        proxy.set(Mode::Throttle(200_000));
        std::thread::sleep(Duration::from_secs(1));
        proxy.set(Mode::Pass);
    })
}
