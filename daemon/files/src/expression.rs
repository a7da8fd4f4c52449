//! Regular expressions, searched for in lines.
//!
//! Patterns come from strangers, so nothing backtracks: time is linear in what is searched, times the size of the compiled expression, which is
//! bounded, as is the memory of each thread for what it has learned about it.
//!
//! An expression is rewritten so that it matches within a line alone: what a line end would match matches nothing, and the ends of the text are the
//! ends of lines. Whole blocks can then be searched at once, and it makes no difference where a block begins.

use regex_automata::Input;
use regex_automata::meta::{self, Regex};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{
    self, Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look,
};

/// The largest compiled expression.
const PROGRAM: usize = 512 << 10;
/// Memory of each thread for what it has learned; it starts anew when that is full.
const MEMORY: usize = 1 << 20;
/// How deep an expression may be nested.
const DEPTH: u32 = 50;

/// What a thread has learned about an expression while searching.
pub(crate) type Memory = meta::Cache;

/// A compiled regular expression.
#[derive(Debug)]
pub(crate) struct Expression(Regex);

/// Why an expression cannot be looked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadExpression {
    /// It is malformed, or asks for what is not known here.
    #[error("the pattern is not a regular expression: {0}")]
    Syntax(#[from] Box<regex_syntax::Error>),
    /// Compiled it would be too large.
    #[error("the pattern is too large a regular expression: {0}")]
    Size(#[from] Box<meta::BuildError>),
}

impl Expression {
    /// `^` and `$` are the ends of lines; a carriage return is an end, too. Letters, digits, space and case are Unicode's; its other properties are not known.
    pub(crate) fn new(pattern: &str, any_case: bool) -> Result<Self, BadExpression> {
        let mut parser = ParserBuilder::new();
        parser.utf8(false).multi_line(true).crlf(true).case_insensitive(any_case).nest_limit(DEPTH);
        let parsed = parser.build().parse(pattern).map_err(Box::new)?;
        let config =
            Regex::config().utf8_empty(false).nfa_size_limit(Some(PROGRAM)).hybrid_cache_capacity(MEMORY);
        let built = Regex::builder().configure(config).build_from_hir(&within_a_line(parsed));
        Ok(Self(built.map_err(Box::new)?))
    }

    /// What one thread needs.
    pub(crate) fn memory(&self) -> Memory {
        self.0.create_cache()
    }

    /// A place in the first line with a match.
    pub(crate) fn find(&self, memory: &mut Memory, haystack: &[u8]) -> Option<usize> {
        self.0.search_half_with(memory, &Input::new(haystack).earliest(true)).map(|half| half.offset())
    }
}

/// As deep as [`DEPTH`] allows.
fn within_a_line(expression: Hir) -> Hir {
    let all = |parts: Vec<Hir>| parts.into_iter().map(within_a_line).collect();
    match expression.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) if literal.0.contains(&b'\n') => Hir::fail(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(Class::Unicode(mut class)) => {
            class.difference(&ClassUnicode::new([ClassUnicodeRange::new('\n', '\n')]));
            Hir::class(Class::Unicode(class))
        }
        HirKind::Class(Class::Bytes(mut class)) => {
            class.difference(&ClassBytes::new([ClassBytesRange::new(b'\n', b'\n')]));
            Hir::class(Class::Bytes(class))
        }
        HirKind::Look(look) => Hir::look(match look {
            Look::Start | Look::StartLF => Look::StartCRLF,
            Look::End | Look::EndLF => Look::EndCRLF,
            other => other,
        }),
        HirKind::Repetition(hir::Repetition { min, max, greedy, sub }) => {
            Hir::repetition(hir::Repetition { min, max, greedy, sub: Box::new(within_a_line(*sub)) })
        }
        // Nobody asks which part matched.
        HirKind::Capture(capture) => within_a_line(*capture.sub),
        HirKind::Concat(parts) => Hir::concat(all(parts)),
        HirKind::Alternation(parts) => Hir::alternation(all(parts)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn found(pattern: &str, line: &str) -> bool {
        let expression = Expression::new(pattern, false).unwrap();
        expression.find(&mut expression.memory(), line.as_bytes()).is_some()
    }

    #[test]
    fn expressions_mean_what_they_mean_elsewhere() {
        assert!(found("^fn [a-z_]+\\(", "fn main() {") && !found("^fn", " fn"));
        assert!(found("a.{0,60}b", &format!("a{}b", "a".repeat(50))) && !found("\\bcat\\b", "concat"));
        assert!(found("é+$", "caféé") && found("\\d{3}", "a 404") && found("^caf.$", "café"));
        assert!(found("^[à-ü]\\w$", "éß") && found("(?i)É", "é") && found("(?-u:\\xff)|x", "x"));
        assert!(found("\\Aa\\z", "b\na\nb") && !found("a\nb", "a\nb") && !found("a\\sb", "a\nb"));
        let any_case = Expression::new("ärger FN", true).unwrap();
        assert!(any_case.find(&mut any_case.memory(), "ÄRGER fn".as_bytes()).is_some());
        assert!(found("\\bé\\b", "- é -") && !found("\\bé", "àé"));
    }

    #[test]
    fn what_is_malformed_or_too_large_is_refused_at_once() {
        let nested = "(".repeat(1000) + &")".repeat(1000);
        for bad in
            ["(", "a{1000000000}", "(a{200}){200}", "\\w{1000}", "(?:(?:x{1000}){1000}){1000}", &nested]
        {
            let begin = Instant::now();
            assert!(Expression::new(bad, false).is_err(), "{bad}");
            assert!(begin.elapsed() < Duration::from_secs(2), "{bad}: {:?}", begin.elapsed());
        }
    }

    /// Each of these takes a backtracking engine longer than the universe is old, or a deterministic automaton more memory than there is.
    #[test]
    fn hostile_expressions_take_bounded_time_and_memory() {
        let text = "a".repeat(64 << 10);
        for hostile in [
            "(a+)+$x",
            "(a|a)*b",
            "(?:a?){500}a{500}b",
            "(a|aa)+$b",
            "(?:a|b)*a(?:a|b){200}c",
            "(.*)(.*)(.*)(.*)(.*)[^a]",
        ] {
            let expression = Expression::new(hostile, false).unwrap();
            let mut memory = expression.memory();
            let begin = Instant::now();
            assert_eq!(expression.find(&mut memory, text.as_bytes()), None, "{hostile}");
            println!("{hostile}: {:?}, {} KiB", begin.elapsed(), memory.memory_usage() >> 10);
            assert!(begin.elapsed() < Duration::from_secs(10), "{hostile}: {:?}", begin.elapsed());
            assert!(memory.memory_usage() < 8 * MEMORY, "{hostile}: {} bytes", memory.memory_usage());
        }
    }
}
