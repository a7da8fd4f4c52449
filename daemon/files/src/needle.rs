//! What `find` looks for: a text, or a regular expression.
//!
//! Expressions are compiled to an automaton that is built while it runs, in a cache of bounded size, so that time is linear in what is searched and
//! memory does not depend on the expression. They know bytes and ASCII, not the classes of Unicode, whose tables are large.

use memchr::memmem;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind};

/// The largest automaton that an expression may have before it runs.
const PROGRAM: usize = 1 << 20;
/// Memory of each thread for what it has built; it starts anew when that is full.
const CACHE: usize = 1 << 20;
/// How deep an expression may be nested.
const DEPTH: u32 = 100;

/// What is looked for. An empty text is found nowhere.
#[derive(Debug)]
pub(crate) enum Needle {
    /// This text.
    Exact(Box<memmem::Finder<'static>>),
    /// This text, with ASCII letters in any case.
    AnyCase(Vec<u8>),
    /// What this expression matches.
    Expression(Box<DFA>),
}

/// Why an expression cannot be looked for.
#[derive(Debug, thiserror::Error)]
#[error("the pattern is not a regular expression that can be searched for: {0}")]
pub(crate) struct BadExpression(#[from] Box<regex_automata::hybrid::BuildError>);

impl Needle {
    pub(crate) fn text(text: &str, any_case: bool) -> Self {
        if any_case {
            Self::AnyCase(text.as_bytes().to_vec())
        } else {
            Self::Exact(Box::new(memmem::Finder::new(text).into_owned()))
        }
    }

    /// `^` and `$` are the ends of lines, with or without a carriage return.
    pub(crate) fn expression(pattern: &str, any_case: bool) -> Result<Self, BadExpression> {
        let syntax = syntax::Config::new()
            .unicode(false)
            .utf8(false)
            .multi_line(true)
            .crlf(true)
            .case_insensitive(any_case)
            .nest_limit(DEPTH);
        let program = thompson::Config::new().utf8(false).nfa_size_limit(Some(PROGRAM));
        let config =
            DFA::config().match_kind(MatchKind::All).cache_capacity(CACHE).skip_cache_capacity_check(true);
        let built = DFA::builder().syntax(syntax).thompson(program).configure(config).build(pattern);
        Ok(Self::Expression(Box::new(built.map_err(Box::new)?)))
    }

    /// For one thread.
    pub(crate) fn finder(&self) -> Finder<'_> {
        let cache = match self {
            Self::Expression(dfa) => Some(dfa.create_cache()),
            Self::Exact(_) | Self::AnyCase(_) => None,
        };
        Finder { needle: self, cache }
    }
}

/// Looks for a [`Needle`].
#[derive(Debug)]
pub(crate) struct Finder<'n> {
    needle: &'n Needle,
    cache: Option<Cache>,
}

impl Finder<'_> {
    /// A place in the first line that may have what is looked for; no line before it has.
    pub(crate) fn find(&mut self, haystack: &[u8]) -> Option<usize> {
        match (self.needle, &mut self.cache) {
            (Needle::Exact(finder), _) => finder.find(haystack),
            (Needle::AnyCase(text), _) => any_case(text, haystack),
            (Needle::Expression(dfa), Some(cache)) => {
                // The earliest end: a longer match could begin in a line of its own and end in another.
                let input = Input::new(haystack).anchored(Anchored::No).earliest(true);
                dfa.try_search_fwd(cache, &input).ok().flatten().map(|found| found.offset())
            }
            (Needle::Expression(_), None) => None,
        }
    }

    /// Whether this line, which has no end, has what is looked for.
    pub(crate) fn is_in(&mut self, line: &[u8]) -> bool {
        self.find(line).is_some()
    }
}

fn any_case(text: &[u8], haystack: &[u8]) -> Option<usize> {
    let first = text.first()?;
    let mut begins = memchr::memchr2_iter(first.to_ascii_lowercase(), first.to_ascii_uppercase(), haystack);
    begins.find(|begin| {
        haystack[*begin..].get(..text.len()).is_some_and(|found| found.eq_ignore_ascii_case(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_may_be_ignored() {
        let found = |text: &str, haystack: &str| Needle::text(text, true).finder().find(haystack.as_bytes());
        assert_eq!(found("needle", "a NEEDneedLE"), Some(6));
        assert_eq!(found("Needle", "needl"), None);
        assert_eq!(found("[a", "{A[A"), Some(2), "only letters have a case");
        assert_eq!(found("é", "É é"), Some(3), "only ASCII letters are alike");
        assert_eq!(Needle::text("a", false).finder().find(b"A"), None);
    }

    #[test]
    fn expressions_are_searched_for_in_lines() {
        let found = |pattern: &str, line: &str| {
            Needle::expression(pattern, false).unwrap().finder().is_in(line.as_bytes())
        };
        assert!(found("^fn [a-z_]+\\(", "fn main() {") && !found("^fn", " fn"));
        assert!(found("a.{0,60}b", &format!("a{}b", "a".repeat(50))) && !found("\\bcat\\b", "concat"));
        assert!(found("é+$", "caféé") && found("\\d{3}", "a 404"));
        assert!(Needle::expression("FN", true).unwrap().finder().is_in(b"fn"));
        for bad in ["(", "a{1000000000}", "\\p{Greek}", "(a{200}){200}"] {
            assert!(Needle::expression(bad, false).is_err(), "{bad}");
        }
    }
}
