//! Patterns of paths, and the walk that finds what they match.
//!
//! A pattern is matched component by component, so a walk enters only directories that can lead to a
//! match: `/var/log/*/x.log` reads `/var/log` and nothing else. `**` enters everything below; of
//! links to directories it enters each directory once, after the real ones, so that loops end and a
//! file has the same name at every look.
//!
//! # Words for dates
//! `{yyyy}`, `{MM}`, `{dd}`, `{HH}` and `{mm}` match any year, month, day, hour and minute, two
//! digits each but the year. Braces are alternatives as soon as there is a comma in them; one other
//! word in braces is refused, since it could only be a date that was written wrongly.
//!
//! Not for: when to look (see [`super`]). Configuration and discovery call it.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use crate::far::{self, Entry};

/// The deepest directory that `**` enters, counted from where it stands.
const MAX_DEPTH: usize = 32;
/// Words for dates, and the texts that they match.
const DATE_WORDS: [(&str, &str); 5] = [
    ("yyyy", "[12][0-9][0-9][0-9]"),
    ("MM", "{0[1-9],1[0-2]}"),
    ("dd", "{0[1-9],[12][0-9],3[01]}"),
    ("HH", "{[01][0-9],2[0-3]}"),
    ("mm", "[0-5][0-9]"),
];

/// A pattern of absolute paths.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    /// This name.
    Literal(PathBuf),
    /// Any name that matches.
    Name(GlobMatcher),
    /// Any number of directories.
    AnyDepth,
}

/// Patterns of paths that are left out.
#[derive(Debug, Clone)]
pub(crate) struct PatternSet(GlobSet);

/// What a walk meets.
pub(crate) trait Visitor {
    /// A directory whose entries matter; also one that is missing.
    fn directory(&mut self, path: &Path);
    /// A path that matches as a whole. `literal` says that no wildcard was needed.
    fn matched(&mut self, path: PathBuf, literal: bool);
    /// A directory that cannot be read now: what is below it is unknown.
    fn unknown(&mut self, path: &Path, error: &io::Error);
    /// A link leads to a directory that was entered already: a loop, or a second way.
    fn again(&mut self, link: &Path);
}

fn glob(text: &str) -> Result<Glob, String> {
    GlobBuilder::new(&with_dates(text)?)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|error| format!("{text:?} is no pattern: {}", error.kind()))
}

/// Puts the patterns of dates where their words stand.
fn with_dates(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        rest = after;
        let Some((word, behind)) = after.split_once('}') else {
            out.push('{');
            continue;
        };
        let is_word = !word.is_empty() && word.chars().all(char::is_alphanumeric);
        if before.ends_with('\\') || !is_word {
            out.push('{');
            continue;
        }
        let Some((_, dates)) = DATE_WORDS.iter().find(|(known, _)| *known == word) else {
            return Err(format!(
                "{{{word}}} is no word for a date; allowed are {{yyyy}}, {{MM}}, {{dd}}, {{HH}} and \
                 {{mm}}, or alternatives with a comma, {{a,b}}"
            ));
        };
        out.push_str(dates);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

fn has_wildcards(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

impl Pattern {
    /// Parses a pattern. A relative one counts from the working folder.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let absolute = std::path::absolute(text).map_err(|error| format!("{text:?}: {error}"))?;
        let mut parts = Vec::new();
        for component in absolute.components() {
            match component {
                Component::Normal(name) => parts.push(Part::new(name)?),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => parts.push(Part::Literal("..".into())),
            }
        }
        match parts.last() {
            Some(Part::Literal(_) | Part::Name(_)) => Ok(Self { parts }),
            Some(Part::AnyDepth) => {
                parts.push(Part::Name(glob("*")?.compile_matcher()));
                Ok(Self { parts })
            }
            None => Err(format!("{text:?} names no file")),
        }
    }

    /// Whether a text is a pattern for a configuration: a daemon's working folder is nobody's choice, so
    /// it has to be absolute there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(text: &str) -> Result<(), String> {
        if !Path::new(text).is_absolute() {
            return Err(format!(
                "{text:?} is relative; expected is an absolute path, such as \
                 \"/var/log/nginx/**/access*.log\""
            ));
        }
        Self::new(text).map(drop)
    }

    /// Walks through what is there.
    pub(crate) fn walk(&self, visitor: &mut dyn Visitor) {
        let mut walker = Walker {
            visitor,
            entered: HashSet::new(),
            links: Vec::new(),
        };
        walker.walk(Path::new("/"), &self.parts, true, 0);
        while !walker.links.is_empty() {
            let mut links = std::mem::take(&mut walker.links);
            links.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            for (link, left, depth) in links {
                let parts = self.parts.get(self.parts.len() - left..);
                walker.walk(&link, parts.unwrap_or_default(), false, depth);
            }
        }
    }

    /// Whether a walk that comes to this absolute path says that it matches, and if so, whether no
    /// wildcard was needed.
    pub(crate) fn matches(&self, path: &Path) -> Option<bool> {
        let names: Vec<&OsStr> = path
            .components()
            .filter_map(|component| match component {
                Component::Normal(name) => Some(name),
                Component::ParentDir => Some(OsStr::new("..")),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
            })
            .collect();
        let literal = |part: &Part| matches!(part, Part::Literal(_));
        matches(&self.parts, &names).then(|| self.parts.iter().all(literal))
    }
}

fn matches(parts: &[Part], names: &[&OsStr]) -> bool {
    match (parts.split_first(), names.split_first()) {
        (None, None) => true,
        (Some((Part::AnyDepth, rest)), _) => {
            (0..=names.len()).any(|at| matches(rest, names.get(at..).unwrap_or_default()))
        }
        (Some((Part::Literal(wanted), rest)), Some((name, names))) => {
            wanted.as_os_str() == *name && matches(rest, names)
        }
        (Some((Part::Name(wanted), rest)), Some((name, names))) => {
            wanted.is_match(Path::new(name)) && matches(rest, names)
        }
        (None, Some(_)) | (Some((Part::Literal(_) | Part::Name(_), _)), None) => false,
    }
}

impl Part {
    fn new(name: &OsStr) -> Result<Self, String> {
        match name.to_str() {
            Some("**") => Ok(Self::AnyDepth),
            Some(text) if has_wildcards(text) => Ok(Self::Name(glob(text)?.compile_matcher())),
            Some(_) | None => Ok(Self::Literal(name.into())),
        }
    }
}

impl PatternSet {
    /// Compiles patterns.
    ///
    /// # Errors
    /// What is wrong with the first bad one.
    pub(crate) fn new(patterns: &[String]) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(glob(pattern)?);
        }
        set.build().map(Self).map_err(|error| error.to_string())
    }

    /// Whether a text is a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(text: &str) -> Result<(), String> {
        glob(text).map(drop)
    }

    /// Whether a path matches one of them.
    pub(crate) fn matches(&self, path: &Path) -> bool {
        self.0.is_match(path)
    }
}

/// One walk of one pattern.
struct Walker<'a> {
    visitor: &'a mut dyn Visitor,
    /// Directories that `**` has entered: its place in the pattern from the end, device, inode.
    entered: HashSet<(usize, u64, u64)>,
    /// Links below `**` that are still to be followed: path, parts of the pattern left, depth.
    links: Vec<(PathBuf, usize, usize)>,
}

impl Walker<'_> {
    fn walk(&mut self, dir: &Path, parts: &[Part], literal: bool, depth: usize) {
        let Some((part, rest)) = parts.split_first() else {
            return;
        };
        match part {
            Part::Literal(name) => {
                let path = dir.join(name);
                if rest.is_empty() {
                    self.visitor.directory(dir);
                    self.visitor.matched(path, literal);
                } else if !matches!(far::at(&path, Path::try_exists), Ok(false)) {
                    self.walk(&path, rest, literal, depth);
                } else {
                    // The directory may come later: its parent will tell.
                    self.visitor.directory(dir);
                }
            }
            Part::Name(matcher) => self.each_entry(dir, |walker, entry| {
                let name = entry.path.file_name().unwrap_or_default();
                if !matcher.is_match(Path::new(name)) {
                    return;
                }
                if rest.is_empty() {
                    walker.visitor.matched(entry.path, false);
                } else if kind_of(&entry) != Kind::Other {
                    walker.walk(&entry.path, rest, false, depth);
                }
            }),
            Part::AnyDepth => self.any_depth(dir, parts, rest, depth),
        }
    }

    /// `**` before `rest`: everything below a directory.
    fn any_depth(&mut self, dir: &Path, parts: &[Part], rest: &[Part], depth: usize) {
        if let Ok(meta) = far::at(dir, |dir| fs::metadata(dir))
            && !self.entered.insert((parts.len(), meta.dev(), meta.ino()))
        {
            return self.visitor.again(dir);
        }
        // Names are matched in the same pass, so that the directory is read once.
        let names = match rest {
            [Part::Name(matcher)] => Some(matcher),
            _ => {
                self.walk(dir, rest, false, depth);
                None
            }
        };
        self.each_entry(dir, |walker, entry| {
            let name = entry.path.file_name().unwrap_or_default();
            if names.is_some_and(|matcher| matcher.is_match(Path::new(name))) {
                walker.visitor.matched(entry.path.clone(), false);
            }
            if depth == MAX_DEPTH {
                return;
            }
            match kind_of(&entry) {
                Kind::Directory => walker.walk(&entry.path, parts, false, depth + 1),
                Kind::Link => walker.links.push((entry.path, parts.len(), depth + 1)),
                Kind::Other => {}
            }
        });
    }

    /// Calls `on_entry` for what is in a directory, in no order.
    fn each_entry(&mut self, dir: &Path, mut on_entry: impl FnMut(&mut Self, Entry)) {
        self.visitor.directory(dir);
        let entries = match far::entries(dir) {
            Ok(entries) => entries,
            Err(error) if is_absence(&error) => return,
            Err(error) => return self.visitor.unknown(dir, &error),
        };
        for entry in entries {
            match entry {
                Ok(entry) => on_entry(self, entry),
                Err(error) => self.visitor.unknown(dir, &error),
            }
        }
    }
}

/// What an entry of a directory leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    /// A link to a directory.
    Link,
    Other,
}

fn kind_of(entry: &Entry) -> Kind {
    match &entry.kind {
        Ok(kind) if kind.is_dir() => Kind::Directory,
        Ok(kind) if !kind.is_symlink() => Kind::Other,
        Ok(_) if far::may_be_dir(&entry.path) => Kind::Link,
        Err(_unknown) if far::may_be_dir(&entry.path) => Kind::Directory,
        Ok(_) | Err(_) => Kind::Other,
    }
}

/// Whether an error says that something is not there, as opposed to: cannot be seen now.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen {
        files: Vec<String>,
        paths: Vec<PathBuf>,
        dirs: usize,
        again: usize,
    }

    impl Visitor for Seen {
        fn directory(&mut self, _path: &Path) {
            self.dirs += 1;
        }
        fn matched(&mut self, path: PathBuf, _literal: bool) {
            self.paths.push(path.clone());
            self.files
                .push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
        fn unknown(&mut self, path: &Path, error: &io::Error) {
            panic!("{}: {error}", path.display());
        }
        fn again(&mut self, _link: &Path) {
            self.again += 1;
        }
    }

    fn check(pattern: &str, wanted: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "a.log",
            "b.log",
            "sub/c.log",
            "sub/deep/d.log",
            "sub/deep/e.txt",
        ] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        // A loop, and a second way to the same directory.
        std::os::unix::fs::symlink(dir.path(), dir.path().join("sub/up")).unwrap();
        std::os::unix::fs::symlink("deep", dir.path().join("sub/twice")).unwrap();
        let mut seen = Seen::default();
        let root = dir.path().display();
        let parsed = Pattern::new(&format!("{root}/{pattern}")).unwrap();
        parsed.walk(&mut seen);
        assert_eq!(seen.again > 0, pattern.contains("**"), "{pattern}");
        for path in &seen.paths {
            assert!(parsed.matches(path).is_some(), "{}", path.display());
        }
        assert!(parsed.matches(Path::new("/other/file.log")).is_none());
        seen.files.sort_unstable();
        assert_eq!(seen.files, wanted, "{pattern}");
        assert!(seen.dirs > 0);
    }

    #[test]
    fn patterns_find_what_they_say() {
        check("a.log", &["a.log"]);
        check("*.log", &["a.log", "b.log"]);
        check("[b-z].log", &["b.log"]);
        check("*/*.log", &["c.log"]);
        check("**/*.log", &["a.log", "b.log", "c.log", "d.log"]);
        check("sub/*/*.log", &["a.log", "b.log", "d.log", "d.log"]);
        check("su?/**/*.{txt,md}", &["e.txt"]);
        check("none/*.log", &[]);
    }

    #[test]
    fn words_for_dates_match_dates() {
        let check = |pattern: &str, name: &str, wanted: bool| {
            let pattern = Pattern::new(&format!("/x/{pattern}")).unwrap();
            let path = Path::new("/x").join(name);
            assert_eq!(pattern.matches(&path).is_some(), wanted, "{name}");
        };
        check("{yyyy}{MM}{dd}{HH}", "2026123123", true);
        check("{yyyy}{MM}{dd}{HH}", "2026133123", false);
        check("{yyyy}{MM}{dd}{HH}", "2026123124", false);
        check("a-{{dd},x}", "a-07", true);
        check("a-{{dd},x}", "a-x", true);
        check("{a,b}-{HH}{mm}", "b-2359", true);
        check("{MM,dd}", "dd", true);
        check("{MM,dd}", "07", false);
        let error = Pattern::new("/x/{yyyyMMdd}").unwrap_err();
        assert!(
            error.contains("{yyyyMMdd} is no word for a date"),
            "{error}"
        );
        assert!(PatternSet::check("**/{yyyy}/*").is_ok());
    }

    #[test]
    fn bad_patterns_are_named() {
        let error = Pattern::new("/x/[").unwrap_err();
        assert!(error.contains("\"[\" is no pattern"), "{error}");
        assert!(Pattern::new("/").unwrap_err().contains("names no file"));
        assert!(PatternSet::check("{a").is_err());
    }

    #[test]
    fn a_relative_path_is_refused_with_what_is_allowed() {
        for text in ["logs/*.log", "**/x.log", "./x.log", "x.log", ""] {
            let error = Pattern::check(text).unwrap_err();
            let wanted = format!("{text:?} is relative; expected is an absolute path");
            assert!(error.contains(&wanted), "{error}");
        }
        Pattern::check("/var/log/**/x.log").unwrap();
    }

    #[test]
    fn an_exclude_is_matched_with_the_whole_path() {
        let set = PatternSet::new(&["**/*.tmp".to_owned(), "/a/*/c".to_owned()]).unwrap();
        assert!(set.matches(Path::new("/x/y.tmp")) && set.matches(Path::new("/a/b/c")));
        assert!(!set.matches(Path::new("/a/b/b/c")) && !set.matches(Path::new("/x/y.log")));
    }
}
