//! The configuration: what is taken, what is refused and in which words.

use tributary_common::ids::Class;

use super::*;
use crate::route::Create;

const GOOD: &str = r#"
zone = "dc1"
cluster = "dc1"
node = "bus1"
data_dir = "/tmp/x"
[[destination]]
name = "kafka-main"
kind = "kafka"
bootstrap = ["k1:9092", "k2:9092"]
options = { "security.protocol" = "SASL_SSL" }
[[destination]]
name = "local"
kind = "file"
path = "/data/{topic}/dt={date}"
[[route]]
topic = "web.*"
to = [{ destination = "kafka-main", topic = "x-{topic}" }, { destination = "local" }]
[[route]]
topic = "*"
to = [{ destination = "local" }]
"#;

fn faults(text: &str) -> String {
    parse(text, "bus.toml").unwrap_err().to_string()
}

#[test]
fn a_small_file_is_enough_and_the_rest_has_defaults() {
    let config = parse(GOOD, "bus.toml").unwrap().value;
    assert_eq!(config.listen, "0.0.0.0:7400");
    assert_eq!(config.admin, "127.0.0.1:7401");
    assert_eq!(
        config.limits,
        Limits {
            memory: 1 << 30,
            agent_rate: None,
            topic_rate: None,
            connections: 20_000
        }
    );
    let topic = tributary_common::ids::Topic::new("web.access").unwrap();
    let to = config.routes.find(&topic).unwrap();
    assert_eq!(to[0].target.render(&topic, 0), "x-web.access");
    assert_eq!(
        to[1].target.render(&topic, 0),
        "/data/web.access/dt=1970-01-01"
    );
}

#[test]
fn a_route_to_nowhere_names_what_there_is() {
    let text = GOOD.replace("destination = \"local\" }]", "destination = \"lcoal\" }]");
    let faults = faults(&text);
    assert!(
        faults.contains("\"lcoal\" is no [[destination]]; there are kafka-main, local"),
        "{faults}"
    );
}

#[test]
fn a_route_may_have_topics_created_in_a_kafka_and_nowhere_else() {
    let create = |keys: &str| {
        let branch = format!("topic = \"x-{{topic}}\", create = {{ {keys} }}");
        let plain = GOOD.replace("SASL_SSL", "SSL");
        plain.replace("topic = \"x-{topic}\"", &branch)
    };
    let table = |keys: &str| parse(&create(keys), "bus.toml").unwrap().value.routes;
    let says = |partitions, replicas| {
        Some(Create {
            partitions,
            replicas,
        })
    };
    assert_eq!(table("").creation(0, "x-web.a"), says(None, None));
    let routes = table("partitions = 16, replicas = 3");
    assert_eq!(routes.creation(0, "x-web.a"), says(Some(16), Some(3)));
    // Of another route, of no topic of the route, of another destination.
    assert_eq!(routes.creation(0, "x-app"), None);
    assert_eq!(routes.creation(0, "web.a"), None);
    assert_eq!(routes.creation(1, "x-web.a"), None);

    let check = |text: &str, part: &str| {
        let faults = faults(text);
        assert!(faults.contains(part), "{faults}");
    };
    check(&create("partitions = 0"), "partitions");
    let local = GOOD.replace(
        "to = [{ destination = \"local\" }]",
        "to = [{ destination = \"local\", create = {} }]",
    );
    check(&local, "\"local\" is of kind file, which has no topics");
    let kafka = "kind = \"kafka\"";
    let grouped = create("").replace(kafka, &format!("{kafka}\ngroups = {{ P0 = [1] }}"));
    check(&grouped, "\"kafka-main\" has groups");
    let beyond = create("").replace("\"SSL\"", "\"SASL_SSL\"");
    check(&beyond, "cannot be used with the options of \"kafka-main\"");
}

#[test]
fn what_keeps_nothing_has_no_keys() {
    let with = |keys: &str| {
        GOOD.replace(
            "[[route]]\ntopic = \"web.*\"",
            &format!("[[destination]]\nname = \"nowhere\"\nkind = \"discard\"\n{keys}[[route]]\ntopic = \"debug.*\"\nto = [{{ destination = \"nowhere\" }}]\n[[route]]\ntopic = \"web.*\""),
        )
    };
    let config = parse(&with(""), "bus.toml").unwrap().value;
    assert_eq!(config.destinations[2].kind, DestinationKind::Discard);
    let topic = tributary_common::ids::Topic::new("debug.x").unwrap();
    let to = config.routes.find(&topic).unwrap();
    assert_eq!(to[0].target.render(&topic, 0), "debug.x");
    let faults = faults(&with("path = \"/x\"\n"));
    assert!(
        faults.contains("destination[2]") && faults.contains("path"),
        "{faults}"
    );
}

#[test]
fn a_standby_is_another_destination_of_the_same_kind() {
    let second =
        "[[destination]]\nname = \"kafka-b\"\nkind = \"kafka\"\nbootstrap = [\"b:9092\"]\n";
    let with = |standby: &str| {
        let to = "{ destination = \"kafka-main\", topic = \"x-{topic}\"";
        let text = GOOD.replace(to, &format!("{to}, standby = {standby}"));
        text.replacen("[[route]]", &format!("{second}[[route]]"), 1)
    };
    let check = |standby: &str, part: &str| {
        let faults = faults(&with(standby));
        assert!(faults.contains(part), "{standby}: {faults}");
        assert_eq!(faults.lines().count(), 1, "{standby}: {faults}");
    };
    check(
        "[\"kafka-c\"]",
        "route[0].to[0].standby: \"kafka-c\" is no [[destination]]; there are kafka-b, kafka-main, local",
    );
    check(
        "[\"kafka-main\"]",
        "\"kafka-main\" cannot stand in for itself",
    );
    check("[\"kafka-b\", \"kafka-b\"]", "names \"kafka-b\" twice");
    check(
        "[\"local\"]",
        "\"local\" is of kind file and cannot stand in for \"kafka-main\", which is of kind kafka",
    );
    let twice = with("[\"kafka-b\"]").replace(
        "{ destination = \"local\" }]\n[[route]]",
        "{ destination = \"kafka-b\" }]\n[[route]]",
    );
    let faults = faults(&twice);
    assert!(
        faults.contains("has the topic's batches already"),
        "{faults}"
    );

    let good = parse(&with("[\"kafka-b\"]"), "bus.toml").unwrap();
    let topic = tributary_common::ids::Topic::new("web.access").unwrap();
    let to = good.value.routes.find(&topic).unwrap();
    assert_eq!(to[0].places().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(to[0].nth(1).1.render(&topic, 0), "x-web.access");
    let without = with("[\"kafka-b\"]") + "[spill]\nmax = \"0B\"\n";
    let warned = parse(&without, "bus.toml").unwrap();
    let warned = warned.warnings().iter().map(ToString::to_string);
    assert!(
        warned
            .collect::<String>()
            .contains("does little without a spill")
    );
}

#[test]
fn what_this_version_lacks_is_refused_by_name() {
    let check = |text: &str, part: &str| {
        let faults = faults(&format!("{GOOD}\n{text}"));
        assert!(faults.contains(part), "{faults}");
    };
    check("[tls]\ncert = \"x\"\n", "tls.key");
    check(
        "[tls]\ncert = \"/nowhere/cert\"\nkey = \"/nowhere/key\"\n",
        "/nowhere/cert",
    );
    check(
        "[[destination]]\nname = \"local\"\nkind = \"file\"\npath = \"/x\"\n",
        "name",
    );
}

#[test]
fn settings_on_which_the_guarantees_rest_are_refused() {
    let text = GOOD.replace("\"security.protocol\" = \"SASL_SSL\"", "\"acks\" = \"0\"");
    let faults = faults(&text);
    assert!(faults.contains("\"acks\" is set by the bus"), "{faults}");
}

#[test]
fn verbatim_is_the_producer_where_nothing_needs_librdkafka() {
    let text = GOOD.replace(
        "kind = \"kafka\"",
        "kind = \"kafka\"\nproducer = \"verbatim\"",
    );
    let faults = faults(&text);
    assert!(
        faults.contains("\"GSSAPI\" is only for producer = \"rdkafka\""),
        "{faults}"
    );
    let producer_of = |text: &str| {
        let loaded = parse(text, "bus.toml").unwrap();
        match &loaded.value.destinations[0].kind {
            DestinationKind::Kafka(cluster) => cluster.producer,
            DestinationKind::File { .. }
            | DestinationKind::Rolled(_)
            | DestinationKind::Search(_)
            | DestinationKind::Discard => {
                unreachable!("the first destination is Kafka")
            }
        }
    };
    let options = |options: &str| GOOD.replace("\"security.protocol\" = \"SASL_SSL\"", options);
    assert_eq!(producer_of(GOOD), ProducerKind::Rdkafka);
    assert_eq!(producer_of(&options("")), ProducerKind::Verbatim);
    let login = options(
        "\"security.protocol\" = \"SASL_PLAINTEXT\", \"sasl.mechanism\" = \"PLAIN\", \
         \"sasl.username\" = \"u\", \"sasl.password\" = \"p\"",
    );
    assert_eq!(producer_of(&login), ProducerKind::Verbatim);
    let lz4 = options("\"compression.type\" = \"lz4\"");
    assert_eq!(producer_of(&lz4), ProducerKind::Rdkafka);
    let both = lz4.replace(
        "kind = \"kafka\"",
        "kind = \"kafka\"\nproducer = \"verbatim\"",
    );
    assert_eq!(producer_of(&both), ProducerKind::Verbatim);
    let warned = parse(&both, "bus.toml").unwrap();
    let warned = warned
        .warnings()
        .iter()
        .map(ToString::to_string)
        .collect::<String>();
    assert!(warned.contains("does nothing with producer"), "{warned}");
}

#[test]
fn a_node_spills_unless_it_is_told_not_to() {
    let check = |text: &str, want: Option<(u64, f64, WhenFull)>| {
        let config = parse(&format!("{GOOD}\n{text}\n"), "bus.toml")
            .unwrap()
            .value;
        let limits = config
            .spill
            .map(|spill| (spill.max, spill.min_free_percent, spill.when_full));
        assert_eq!(limits, want, "{text}");
    };
    check("", Some((10 << 30, 5.0, WhenFull::Busy)));
    check(
        "[spill]\nmax = \"1GiB\"",
        Some((1 << 30, 5.0, WhenFull::Busy)),
    );
    check(
        "[spill]\nmin_free = \"10%\"",
        Some((10 << 30, 10.0, WhenFull::Busy)),
    );
    check("[spill]\nmax = \"0B\"", None);
    let drops = Some((10 << 30, 5.0, WhenFull::DropOldest));
    check("[spill]\nwhen_full = \"drop-oldest\"", drops);
}

#[test]
fn a_file_that_climbs_out_of_its_folders_is_refused() {
    let file = |path: &str| {
        format!("{GOOD}\n[[destination]]\nname = \"out\"\nkind = \"file\"\npath = \"{path}\"\n")
    };
    for bad in ["/logs/../{topic}", "../logs", "/logs/{topic}/.."] {
        let faults = faults(&file(bad));
        assert!(faults.contains("path: \""), "{faults}");
        assert!(faults.contains("climbs out of its folders"), "{faults}");
    }
    parse(&file("/logs/..{topic}/a..b"), "bus.toml").unwrap();
}

#[test]
fn files_in_hdfs_are_named_and_rolled_as_the_configuration_says() {
    let lake = |lines: &str| {
        format!("{GOOD}\n[[destination]]\nname = \"lake\"\nkind = \"hdfs\"\n{lines}\n")
    };
    let outside = "url = \"hdfs://nameservice1\"\npath = \"/logs/{topic}/dt={date}/hour={hour}\"\n";
    let loaded = parse(&lake(outside), "bus.toml").unwrap();
    let warned: String = loaded.warnings().iter().map(ToString::to_string).collect();
    assert!(warned.contains("dfs.ha.namenodes.nameservice1"), "{warned}");
    let last = loaded.value.destinations.last().map(|one| one.kind.clone());
    let Some(DestinationKind::Rolled(hdfs)) = last else {
        unreachable!("the last destination is HDFS")
    };
    assert_eq!(
        (hdfs.roll.size, hdfs.roll.after.as_secs()),
        (256 << 20, 600)
    );
    assert_eq!(hdfs.compression, Compression::Zstd);

    let check = |lines: &str, part: &str| {
        let faults = faults(&lake(lines));
        assert!(faults.contains(part), "{faults}");
    };
    let url = "url = \"hdfs://nn1:8020\"\n";
    check(url, "path");
    check(
        &format!("{url}path = \"logs\"\n"),
        "is no folder below the root",
    );
    check(
        &format!("{url}path = \"/a/../../b\"\n"),
        "is no folder below the root",
    );
    check(&format!("{url}path = \"/a/{{tpoic}}\"\n"), "{tpoic}");
    check("url = \"http://nn1\"\npath = \"/x\"\n", "hdfs://");
    check(
        "url = \"hdfs://nn1:8020/logs\"\npath = \"/x\"\n",
        "folders belong into path",
    );
    let kerberos = |keys: &str| format!("{url}path = \"/x\"\nkerberos = {{ {keys} }}\n");
    let who = "principal = \"bus@EXAMPLE.COM\"";
    check(&kerberos(who), "keytab");
    check(
        &kerberos(&format!("{who}, keytab = \"/nowhere/bus.keytab\"")),
        "/nowhere/bus.keytab",
    );
    check(
        &kerberos("principal = \"@EXAMPLE.COM\", keytab = \"/dev/null\""),
        "is no principal",
    );
    let bad = format!("{url}path = \"/x\"\nroll = {{ after = \"1ms\" }}\n");
    check(&bad, "roll.after");
    check(
        &format!("{url}path = \"/x\"\n[spill]\nmax = \"0B\"\n"),
        "needs a spill",
    );
}

#[test]
fn files_of_this_machine_appear_whole_where_the_configuration_asks_for_it() {
    let out = |lines: &str| {
        format!("{GOOD}\n[[destination]]\nname = \"out\"\nkind = \"file\"\n{lines}\n")
    };
    let kind = |lines: &str| {
        let config = parse(&out(lines), "bus.toml").unwrap().value;
        config.destinations.last().unwrap().kind.clone()
    };
    let path = "path = \"/logs/{topic}\"\n";
    assert!(matches!(kind(path), DestinationKind::File { .. }));
    let roll = Roll {
        size: 256 << 20,
        after: std::time::Duration::from_secs(600),
    };
    let small = Roll {
        size: 1 << 20,
        ..roll
    };
    for (keys, roll, compression, merge_below) in [
        ("compression = \"gzip\"", roll, Compression::Gzip, 0),
        ("roll = { size = \"1MiB\" }", small, Compression::Zstd, 0),
        ("merge_below = \"1MiB\"", roll, Compression::Zstd, 1 << 20),
    ] {
        let want = RolledConfig {
            place: Place::Local,
            path: Template::parse("/logs/{topic}").unwrap(),
            roll,
            merge_below,
            compression,
        };
        assert_eq!(
            kind(&format!("{path}{keys}")),
            DestinationKind::Rolled(want)
        );
    }
    let check = |lines: &str, part: &str| {
        let faults = faults(&out(lines));
        assert!(faults.contains(part), "{faults}");
    };
    check(
        "path = \"logs/{topic}\"\ncompression = \"zstd\"",
        "is no folder below the root",
    );
    check(
        &format!("{path}roll = {{}}\n[spill]\nmax = \"0B\""),
        "a destination of kind file with roll, compression or merge_below needs a spill",
    );
    check(&format!("{path}compression = \"lz4\""), "compression");
    let loaded = parse(&out("path = \"/logs/{hour}\""), "bus.toml").unwrap();
    let warned: String = loaded.warnings().iter().map(ToString::to_string).collect();
    assert!(warned.contains("has {hour} and no {date}"), "{warned}");
}

#[test]
fn the_sample_in_deploy_is_good() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/bus.toml");
    let loaded = load(Path::new(path), &Env::none()).unwrap();
    assert!(loaded.warnings().is_empty());
}

/// [`GOOD`] with an elasticsearch destination that gets all topics `es.*`.
fn with_search(keys: &str, branch: &str) -> String {
    let destination = format!(
        "[[destination]]\nname = \"es\"\nkind = \"elasticsearch\"\n{keys}\n\
         [[route]]\ntopic = \"es.*\"\nto = [{{ destination = \"es\" {branch} }}]\n"
    );
    GOOD.replacen("[[route]]", &format!("{destination}[[route]]"), 1)
}

const URLS: &str = "urls = [\"http://es1:9200\", \"http://es2:9200\"]";

#[test]
fn a_search_destination_has_an_index_of_each_records_time() {
    let text = with_search(URLS, ", index = \"logs-{topic}-{date}\"");
    let config = parse(&text, "bus.toml").unwrap().value;
    let DestinationKind::Search(search) = &config.destinations[2].kind else {
        panic!("{:?}", config.destinations);
    };
    assert_eq!(search.urls.len(), 2);
    assert_eq!(search.document, Document::Line);
    assert_eq!(config.dead.max, 64 << 20);
    let topic = tributary_common::ids::Topic::new("es.Web").unwrap();
    let to = config.routes.find(&topic).unwrap();
    assert_eq!(to[0].target.render(&topic, 0), "logs-es.web-{date}");
    let plain = parse(&with_search(URLS, ""), "bus.toml").unwrap().value;
    let to = plain.routes.find(&topic).unwrap();
    assert_eq!(to[0].target.render(&topic, 0), "es.web");
}

#[test]
fn what_is_wrong_with_a_search_destination_is_one_sentence() {
    let check = |keys: &str, branch: &str, part: &str| {
        let faults = faults(&with_search(keys, branch));
        assert!(faults.contains(part), "{keys} {branch}: {faults}");
        assert_eq!(faults.lines().count(), 1, "{keys} {branch}: {faults}");
    };
    let more = |keys: &str| format!("{URLS}\n{keys}");
    check("", "", "destination[2].urls");
    check("urls = []", "", "urls");
    check("urls = [\"es1:9200\"]", "", "urls[0]");
    check("urls = [\"http://u:p@es1\"]", "", "holds credentials");
    check(&more("user = \"u\""), "", "without `password_file`");
    check(
        &more("password_file = \"/nowhere\"\nuser = \"u\""),
        "",
        "/nowhere",
    );
    check(&more("api_key_file = \"/nowhere\""), "", "/nowhere");
    check(&more("ca = \"/nowhere\""), "", "no URL is https");
    check(
        "urls = [\"https://es1\"]\nca = \"/nowhere\"",
        "",
        "/nowhere",
    );
    check(&more("bulk = 5"), "", "bulk");
    check(&more("document = \"xml\""), "", "line, json");
    check(URLS, ", index = \"logs-{when}\"", "{when} is unknown");
    check(URLS, ", index = \"Logs\"", "no capital letters");
    check(URLS, ", index = \"_logs\"", "begins with");
    let stream = more("template = \"data-stream\"");
    check(
        &stream,
        ", index = \"logs-{date}\"",
        "roll over by themselves",
    );
    let text = GOOD.replace(
        "{ destination = \"local\" }]",
        "{ destination = \"local\", index = \"x\" }]",
    );
    assert!(faults(&text).contains("is no elasticsearch destination"));
}

#[test]
fn groups_of_brokers_are_taken_and_all_their_faults_are_said_at_once() {
    let with = |groups: &str| {
        let groups = format!("\"k2:9092\"]\ngroups = {{ {groups} }}");
        GOOD.replace("\"k2:9092\"]", &groups)
            .replace("\"SASL_SSL\"", "\"SSL\"")
    };
    let good = with("P0 = [1, 2], P2 = [3, 4, 5], replicas = 2");
    let good = parse(&good, "bus.toml").unwrap().value;
    let DestinationKind::Kafka(kafka) = &good.destinations[0].kind else {
        panic!("it is a Kafka");
    };
    let groups = kafka.groups.as_ref().unwrap();
    assert_eq!((groups.partitions, groups.replicas), (8, Some(2)));
    assert_eq!(groups.of[&Class::P2], [3, 4, 5]);
    let check = |groups: &str, wanted: &[&str]| {
        let faults = faults(&with(groups));
        for wanted in wanted {
            assert!(faults.contains(wanted), "{wanted:?} is not in: {faults}");
        }
    };
    check("P5 = [1]", &["P5"]);
    check("P0 = []", &["groups.P0"]);
    check("partitions = 3", &["has no class"]);
    check(
        "P0 = [1, 2, 2], P2 = [2, 3], P3 = [4], replicas = 2",
        &[
            "groups.P0: names broker 2 twice",
            "groups.P2: names broker 2, which is in group P0",
            "groups.P3: has 1 brokers; replicas = 2 needs as many",
        ],
    );
    let kerberos = GOOD.replace("\"k2:9092\"]", "\"k2:9092\"]\ngroups = { P0 = [1] }");
    let faults = faults(&kerberos);
    assert!(faults.contains("groups: cannot be used"), "{faults}");
}
