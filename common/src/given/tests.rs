//! A small part that goes by a file and by what it is given, on a real disk.

use tempfile::TempDir;

use super::*;
use crate::config::{Checker, Env, Key, Schema, parse, parse_over};

static SCHEMA: Schema = Schema::new(
    "A part.",
    &[
        Key::default("zone", crate::config::Kind::Text, "z", "Its zone."),
        Key::default("task", crate::config::Kind::Text, "none", "What it does."),
        Key::default("bus", crate::config::Kind::Text, "none", "By whom."),
        Key::default("limits", crate::config::Kind::Text, "none", "How much."),
    ],
);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Settings {
    zone: String,
    task: String,
    bus: String,
    limits: String,
}

fn check(raw: Settings, checker: &mut Checker) -> Option<Settings> {
    if raw.task == "bad" {
        checker.fault("task", "is bad");
    }
    Some(raw)
}

fn from_file(text: &str) -> Loaded<Settings> {
    parse("test", &SCHEMA, text, "file.toml", &Env::none(), check).unwrap()
}

/// A part with a folder of its own. It cannot change its zone while it runs.
struct Toy {
    dir: TempDir,
    file: Arc<Origin>,
    config: Settings,
    standing: Standing,
    shown: GivenHealth,
}

impl Toy {
    fn new(text: &str) -> Self {
        Self::start(TempDir::new().unwrap(), text, true)
    }

    fn start(dir: TempDir, text: &str, manager: bool) -> Self {
        let loaded = from_file(text);
        let file = Arc::clone(loaded.origin());
        let own = (loaded.value, dir.path(), manager);
        let Start { config, standing } = start(&COLLECTION, own, |over| {
            parse_over("test", &SCHEMA, &file, Some(over), check)
        });
        let shown = standing.health().clone();
        Self {
            dir,
            file,
            config,
            standing,
            shown,
        }
    }

    async fn give(&mut self, version: &str, text: Option<&str>) -> Option<&'static str> {
        let given = Given {
            version: version.to_owned(),
            text: text.map(str::to_owned),
        };
        offered(self, given).await
    }

    /// What counts, and what is shown: whose, the version, what was refused.
    fn says(&self) -> (&str, &str, GivenFrom, &str, &str) {
        let (config, shown) = (&self.config, &self.shown);
        let (version, refused) = (shown.version.as_str(), shown.refused.as_str());
        (&config.task, &config.bus, shown.from, version, refused)
    }
}

impl Part for Toy {
    type Config = Settings;

    fn kind(&self) -> &'static Kind {
        &COLLECTION
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn file(&self) -> Arc<Origin> {
        Arc::clone(&self.file)
    }

    fn load(&self, file: &Arc<Origin>, over: Option<Over<'_>>) -> Result<Loaded<Settings>, Faults> {
        parse_over("test", &SCHEMA, file, over, check)
    }

    async fn apply(&mut self, loaded: Loaded<Settings>) -> Result<&'static str, Refused> {
        if loaded.value.zone != self.config.zone {
            return Err(vec![loaded.fault("zone", "cannot change").to_string()]);
        }
        self.file = Arc::clone(loaded.origin());
        self.config = loaded.value;
        Ok("applied")
    }

    fn standing(&mut self) -> &mut Standing {
        &mut self.standing
    }

    fn show(&mut self) {
        self.shown = self.standing.health().clone();
    }
}

use GivenFrom::{File, Manager};

#[tokio::test]
async fn a_document_counts_over_the_file_until_it_is_taken_back() {
    let mut toy = Toy::new("task = 'a'\nbus = 'b'\n");
    assert_eq!(toy.says(), ("a", "b", File, "", ""));
    assert_eq!(toy.give("1-x", Some("task = 'c'")).await, Some("applied"));
    assert_eq!(toy.says(), ("c", "b", Manager, "1-x", ""));
    // The same once more is known.
    assert_eq!(toy.give("1-x", Some("task = 'c'")).await, None);
    // It goes over a new file as well, and each key that it lacks is that file's.
    let loaded = from_file("task = 'd'\nbus = 'e'\n");
    assert_eq!(reload(&mut toy, loaded).await, Ok("applied"));
    assert_eq!(toy.says(), ("c", "e", Manager, "1-x", ""));
    assert_eq!(toy.give("2-file", None).await, Some("applied"));
    assert_eq!(toy.says(), ("d", "e", File, "2-file", ""));
    let again = Toy::start(toy.dir, "task = 'a'\n", true);
    assert_eq!(again.says(), ("a", "none", File, "", ""));
}

#[tokio::test]
async fn a_bad_document_is_refused_whole_with_its_faults_and_the_old_one_goes_on() {
    let mut toy = Toy::new("task = 'a'\n");
    toy.give("1-x", Some("task = 'c'")).await;
    let refused = toy.give("2-x", Some("task = 'bad'\nbus = 'b'")).await;
    assert_eq!(refused, Some("refused"));
    assert_eq!(toy.says(), ("c", "none", Manager, "1-x", "2-x"));
    let wanted = "collection 2-x of the manager:1:8: task: is bad";
    assert_eq!(toy.shown.fault, wanted);
    toy.give("3-x", Some("zone = 'y'")).await;
    assert!(toy.shown.fault.contains("zone"), "{}", toy.shown.fault);
    // A file that is good changes nothing of that.
    assert_eq!(
        reload(&mut toy, from_file("bus = 'e'\n")).await,
        Ok("applied")
    );
    assert_eq!(toy.says(), ("c", "e", Manager, "1-x", "3-x"));
    // What counts is wanted again: nothing is refused any more.
    assert_eq!(toy.give("1-x", Some("task = 'c'")).await, None);
    assert_eq!(toy.says(), ("c", "e", Manager, "1-x", ""));
    assert_eq!(toy.shown.fault, "");
    // A file that does not fit what counts is refused.
    let other = from_file("zone = 'y'\n");
    let refused = reload(&mut toy, other).await.unwrap_err();
    assert_eq!(refused, ["file.toml:1:8: zone: cannot change"]);
    assert_eq!(toy.says(), ("c", "e", Manager, "1-x", ""));
}

#[tokio::test]
async fn what_was_taken_counts_from_the_next_start_on_where_it_fits_the_file() {
    let mut toy = Toy::new("task = 'a'\n");
    toy.give("1-x", Some("task = 'c'")).await;
    // Nobody could take it back without a manager.
    let toy = Toy::start(toy.dir, "task = 'a'\n", false);
    assert_eq!(toy.says(), ("a", "none", File, "", ""));
    let toy = Toy::start(toy.dir, "task = 'a'\n", true);
    assert_eq!(toy.says(), ("c", "none", Manager, "1-x", ""));

    let bad = Document {
        version: "2-x".to_owned(),
        text: "task = 'bad'".to_owned(),
    };
    COLLECTION.keep(toy.dir.path(), Some(&bad)).unwrap();
    let mut toy = Toy::start(toy.dir, "task = 'a'\n", true);
    assert_eq!(toy.says(), ("a", "none", File, "", "2-x"));
    let wanted = "collection 2-x of the manager:1:8: task: is bad";
    assert_eq!(toy.shown.fault, wanted);
    // It keeps no file out.
    let loaded = from_file("task = 'd'\n");
    assert_eq!(reload(&mut toy, loaded).await, Ok("applied"));
    assert_eq!(toy.says(), ("d", "none", File, "", "2-x"));
}

#[tokio::test]
async fn what_is_not_kept_counts_and_is_said() {
    let mut toy = Toy::new("task = 'a'\n");
    let folder = toy.dir.path().join(FOLDER);
    std::fs::write(&folder, "in the way").unwrap();
    assert_eq!(toy.give("1-x", Some("task = 'c'")).await, Some("applied"));
    assert_eq!(toy.says(), ("c", "none", Manager, "1-x", ""));
    assert!(toy.shown.fault.contains("is not kept"), "{:?}", toy.shown);
}

#[test]
fn what_is_kept_is_read_again_and_what_somebody_else_wrote_is_named() {
    let dir = TempDir::new().unwrap();
    let document = Document {
        version: "7-0a".to_owned(),
        text: "task = 'b'\n".to_owned(),
    };
    assert_eq!(ROUTES.read(dir.path()).unwrap(), None);
    ROUTES.keep(dir.path(), Some(&document)).unwrap();
    let kept = ROUTES.read(dir.path()).unwrap();
    assert_eq!(kept.as_ref(), Some(&document));
    ROUTES.keep(dir.path(), None).unwrap();
    ROUTES.keep(dir.path(), None).unwrap();
    assert_eq!(ROUTES.read(dir.path()).unwrap(), None);
    let newer = dir.path().join(FOLDER).join(ROUTES.file);
    disk::replace(&newer, b"# tributary bus routes, version 2\nx").unwrap();
    for other in [None, Some(&document)] {
        let error = ROUTES.keep(dir.path(), other).unwrap_err().to_string();
        assert!(error.contains("has version 2"), "{error}");
    }
    assert!(disk::read(&newer).unwrap().is_some(), "it is left alone");
    let check = |text: &str, wanted: &str| {
        let error = ROUTES.parse(text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text:?}: {error}");
    };
    let good = ROUTES.written(&document);
    assert_eq!(ROUTES.parse(&good).unwrap(), document);
    check(&good.replace("'b'", "'c'"), "its sum does not agree");
    check(&good.replace("version 1", "version 2"), "it has version 2");
    check(&document.text, "no kept document");
    check("", "no kept document");
}

#[test]
fn a_version_stands_in_a_line_of_its_own() {
    let (offer, mut offers) = watch::channel(None);
    for version in ["", "a b", "a\n", &"x".repeat(101)] {
        let given = Given {
            version: version.to_owned(),
            text: None,
        };
        pass_on(&offer, given);
    }
    assert!(!offers.has_changed().unwrap());
    let good = Given {
        version: "7-0a".to_owned(),
        text: None,
    };
    pass_on(&offer, good.clone());
    assert_eq!(offers.borrow_and_update().clone(), Some(good));
}

#[test]
fn what_is_said_is_short_where_all_is_well() {
    let health = GivenHealth {
        from: Manager,
        version: "7-0a".to_owned(),
        ..GivenHealth::default()
    };
    let json = serde_json::to_string(&health).unwrap();
    assert_eq!(json, r#"{"from":"manager","version":"7-0a"}"#);
    assert_eq!(serde_json::from_str::<GivenHealth>(&json).unwrap(), health);
    let back: Given = serde_json::from_str(r#"{"version":"8-0a"}"#).unwrap();
    assert_eq!(back.text, None);
}
