//! Patterns of paths, and the walk that finds what they match.
//!
//! A pattern is matched component by component, so a walk enters only directories that can lead to a
//! match: `/var/log/*/x.log` reads `/var/log` and nothing else. `**` enters everything below.
//!
//! Not for: when to look (see [`super`]). Configuration and discovery call it.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Component, Path, PathBuf},
};

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

/// The deepest directory that `**` enters, counted from where it stands.
const MAX_DEPTH: usize = 32;

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
}

fn glob(text: &str) -> Result<Glob, String> {
    GlobBuilder::new(text)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|error| format!("{text:?} is no pattern: {}", error.kind()))
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

    /// Whether a text is a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(text: &str) -> Result<(), String> {
        Self::new(text).map(drop)
    }

    /// Walks through what is there.
    pub(crate) fn walk(&self, visitor: &mut dyn Visitor) {
        walk(Path::new("/"), &self.parts, true, 0, visitor);
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

fn walk(dir: &Path, parts: &[Part], literal: bool, depth: usize, visitor: &mut dyn Visitor) {
    let Some((part, rest)) = parts.split_first() else {
        return;
    };
    match part {
        Part::Literal(name) => {
            let path = dir.join(name);
            if rest.is_empty() {
                visitor.directory(dir);
                visitor.matched(path, literal);
            } else if path.is_dir() || !matches!(path.try_exists(), Ok(false)) {
                walk(&path, rest, literal, depth, visitor);
            } else {
                // The directory may come later: its parent will tell.
                visitor.directory(dir);
            }
        }
        Part::Name(matcher) => {
            each_entry(dir, visitor, &mut |path, is_dir, visitor| {
                if !path.file_name().is_some_and(|name| matcher.is_match(name)) {
                    return;
                }
                if rest.is_empty() {
                    visitor.matched(path, false);
                } else if is_dir() {
                    walk(&path, rest, false, depth, visitor);
                }
            });
        }
        Part::AnyDepth => {
            walk(dir, rest, false, depth, visitor);
            if depth == MAX_DEPTH {
                return;
            }
            each_entry(dir, visitor, &mut |path, is_dir, visitor| {
                // Links are not followed here: they may lead back up.
                if is_dir() && !path.is_symlink() {
                    walk(&path, parts, false, depth + 1, visitor);
                }
            });
        }
    }
}

type OnEntry<'a> = dyn FnMut(PathBuf, &dyn Fn() -> bool, &mut dyn Visitor) + 'a;

/// Calls `on_entry` for what is in a directory, in no order.
fn each_entry(dir: &Path, visitor: &mut dyn Visitor, on_entry: &mut OnEntry<'_>) {
    visitor.directory(dir);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return,
        Err(error) => return visitor.unknown(dir, &error),
    };
    for entry in entries {
        match entry {
            Ok(entry) => {
                let path = entry.path();
                let is_dir = || match entry.file_type() {
                    Ok(kind) if kind.is_symlink() => path.is_dir(),
                    Ok(kind) => kind.is_dir(),
                    Err(_unknown) => path.is_dir(),
                };
                on_entry(path.clone(), &is_dir, visitor);
            }
            Err(error) => visitor.unknown(dir, &error),
        }
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
        dirs: usize,
    }

    impl Visitor for Seen {
        fn directory(&mut self, _path: &Path) {
            self.dirs += 1;
        }
        fn matched(&mut self, path: PathBuf, _literal: bool) {
            self.files
                .push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
        fn unknown(&mut self, path: &Path, error: &io::Error) {
            panic!("{}: {error}", path.display());
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
        let mut seen = Seen::default();
        Pattern::new(&format!("{}/{pattern}", dir.path().display()))
            .unwrap()
            .walk(&mut seen);
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
        check("sub/**", &["c.log", "d.log", "deep", "e.txt"]);
        check("su?/**/*.{txt,md}", &["e.txt"]);
        check("none/*.log", &[]);
    }

    #[test]
    fn bad_patterns_are_named() {
        let error = Pattern::new("/x/[").unwrap_err();
        assert!(error.contains("\"[\" is no pattern"), "{error}");
        assert!(Pattern::new("/").unwrap_err().contains("names no file"));
        assert!(PatternSet::check("{a").is_err());
    }

    #[test]
    fn an_exclude_is_matched_with_the_whole_path() {
        let set = PatternSet::new(&["**/*.tmp".to_owned(), "/a/*/c".to_owned()]).unwrap();
        assert!(set.matches(Path::new("/x/y.tmp")) && set.matches(Path::new("/a/b/c")));
        assert!(!set.matches(Path::new("/a/b/b/c")) && !set.matches(Path::new("/x/y.log")));
    }
}
