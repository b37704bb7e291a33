//! Which topic goes to which destinations, and under which name there.
//!
//! Not for: getting it there (see `crate::destination`). The first rule that matches wins, as in
//! a file of rules read from the top. Pure; the table is built once from the config.

use std::{iter::once, sync::Arc};

use tributary_common::ids::Topic;

use crate::{switch::Switch, template::Template};

/// A topic pattern: text where `*` stands for any run of characters, also none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern; `None` when it is empty or holds a character that no topic can have.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'*');
        (!text.is_empty() && text.bytes().all(allowed)).then(|| Self(text.to_owned()))
    }

    /// Whether `topic` matches.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let mut pieces = self.0.split('*');
        // `split` yields at least one piece, the text before the first star.
        let Some(mut rest) = pieces.next().and_then(|head| topic.strip_prefix(head)) else {
            return false;
        };
        let mut pieces: Vec<&str> = pieces.collect();
        let Some(tail) = pieces.pop() else {
            return rest.is_empty();
        };
        for piece in pieces {
            match rest.split_once(piece) {
                Some((_skipped, after)) => rest = after,
                None => return false,
            }
        }
        rest.ends_with(tail)
    }
}

/// A destination that stands in for another.
#[derive(Debug, Clone)]
pub struct Standby {
    /// Its place, as that of a branch.
    pub destination: usize,
    /// The physical topic or path there.
    pub target: Template,
}

/// How a topic that a Kafka lacks is created there; what is not said is as its brokers have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Create {
    /// Its partitions.
    pub partitions: Option<i32>,
    /// The replicas of each.
    pub replicas: Option<i16>,
}

/// One destination of a rule, and those that stand in for it.
#[derive(Debug, Clone)]
pub struct Branch {
    /// Its place among the destinations: those of the config, or those of the node's life.
    pub destination: usize,
    /// The physical topic or path there.
    pub target: Template,
    /// Who takes batches while it takes none, in order.
    pub standby: Vec<Standby>,
    /// Whether a topic that is missing there is created, and how.
    pub create: Option<Create>,
    /// Which of them is used now.
    pub(crate) switch: Arc<Switch>,
}

impl Branch {
    /// The places of all of them, in order.
    pub(crate) fn places(&self) -> impl Iterator<Item = usize> {
        let standby = self.standby.iter().map(|standby| standby.destination);
        once(self.destination).chain(standby)
    }

    /// The place and the name there of the n-th: 0 is the branch's own.
    pub(crate) fn nth(&self, no: usize) -> (usize, &Template) {
        let standby = no.checked_sub(1).and_then(|no| self.standby.get(no));
        match standby {
            Some(standby) => (standby.destination, &standby.target),
            None => (self.destination, &self.target),
        }
    }
}

/// One rule.
#[derive(Debug, Clone)]
pub struct Route {
    /// Which topics.
    pub pattern: Pattern,
    /// Where to; a batch is delivered when all of them have it.
    pub to: Vec<Branch>,
}

/// All rules.
#[derive(Debug, Clone, Default)]
pub struct Table {
    routes: Vec<Route>,
}

impl Table {
    /// A table of rules in the order of the config.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self { routes }
    }

    /// The destinations of a topic; `None` when no rule matches: the batch is refused.
    #[must_use]
    pub fn find(&self, topic: &Topic) -> Option<&[Branch]> {
        self.routes
            .iter()
            .find(|route| route.pattern.matches(topic.as_str()))
            .map(|route| route.to.as_slice())
    }

    /// The same rules for destinations that stand elsewhere: where the config has the n-th, `places`
    /// says the place.
    ///
    /// # Panics
    /// Never: a table names destinations that its config has.
    #[must_use]
    pub(crate) fn moved_to(mut self, places: &[usize]) -> Self {
        let place = |no: usize| {
            let place = places.get(no).copied();
            place.expect("the config's check resolves every name in it")
        };
        for branch in self.routes.iter_mut().flat_map(|route| &mut route.to) {
            branch.destination = place(branch.destination);
            for standby in &mut branch.standby {
                standby.destination = place(standby.destination);
            }
        }
        self
    }

    /// Whether a destination's topic of this name may be created, and how: by the first rule of whatever goes
    /// there under that name.
    #[must_use]
    pub fn creation(&self, destination: usize, name: &str) -> Option<Create> {
        let may = |route: &Route, branch: &Branch| {
            let all = 0..=branch.standby.len();
            let mut all = all.map(|no| branch.nth(no));
            all.any(|(place, target)| {
                let topic = target.topic_of(name).filter(|_topic| place == destination);
                topic.is_some_and(|topic| topic.is_empty() || self.is_routed_by(&topic, route))
            })
        };
        let branches = self.routes.iter();
        let mut branches =
            branches.flat_map(|route| route.to.iter().map(move |branch| (route, branch)));
        branches.find_map(|(route, branch)| branch.create.filter(|_create| may(route, branch)))
    }

    fn is_routed_by(&self, topic: &str, route: &Route) -> bool {
        let mut routes = self.routes.iter();
        let first = routes.find(|route| route.pattern.matches(topic));
        first.is_some_and(|first| std::ptr::eq(first, route))
    }

    /// The branches with a standby.
    pub(crate) fn with_standby(&self) -> impl Iterator<Item = &Branch> {
        let branches = self.routes.iter().flat_map(|route| &route.to);
        branches.filter(|branch| !branch.standby.is_empty())
    }

    /// Goes on with what the same branches of other rules use.
    pub(crate) fn go_on_from(&mut self, before: &Self) {
        for branch in self.routes.iter_mut().flat_map(|route| &mut route.to) {
            let mut same = before.with_standby();
            if let Some(same) = same.find(|other| other.switch.is_as(&branch.switch)) {
                branch.switch = Arc::clone(&same.switch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        let check = |pattern: &str, topic: &str, want: bool| {
            assert_eq!(
                Pattern::new(pattern).unwrap().matches(topic),
                want,
                "{pattern} {topic}"
            );
        };
        check("web.*", "web.access", true);
        check("web.*", "web.", true);
        check("web.*", "web", false);
        check("web.*", "xweb.a", false);
        check("*", "anything", true);
        check("web", "web", true);
        check("web", "web2", false);
        check("*.log", "a.log", true);
        check("*.log", "a.log2", false);
        check("a*b*c", "a-b-c", true);
        check("a*b*c", "abc", true);
        check("a*b*c", "acb", false);
        check("a*a", "a", false);
        check("*aa*a", "aaa", true);
        check("*aa*a", "aa", false);
    }

    #[test]
    fn patterns_hold_only_what_topics_can_have() {
        for bad in ["", "a b", "a/b", "a?"] {
            assert_eq!(Pattern::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_first_match_wins() {
        let route = |pattern: &str, destination: usize| Route {
            pattern: Pattern::new(pattern).unwrap(),
            to: vec![Branch {
                destination,
                target: Template::parse("{topic}").unwrap(),
                standby: Vec::new(),
                create: None,
                switch: Arc::new(Switch::new(pattern, Vec::new())),
            }],
        };
        let table = Table::new(vec![
            route("web.*", 0),
            route("web.access", 1),
            route("db", 2),
        ]);
        let find = |topic: &str| {
            table
                .find(&Topic::new(topic).unwrap())
                .map(|branches| branches[0].destination)
        };
        assert_eq!(find("web.access"), Some(0));
        assert_eq!(find("db"), Some(2));
        assert_eq!(find("dbx"), None);
    }

    /// The obvious, slow matcher.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| model(rest, &text[skip..])),
            ([p, rest @ ..], [t, tail @ ..]) if p == t => model(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_equals_the_slow_matcher(pattern in "[ab*]{1,6}", topic in "[ab]{0,7}") {
            let fast = Pattern::new(&pattern).unwrap().matches(&topic);
            prop_assert_eq!(fast, model(pattern.as_bytes(), topic.as_bytes()));
        }
    }
}
