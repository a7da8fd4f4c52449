//! What `find` looks for: a text, or a regular expression.

use memchr::memmem;

use crate::expression::{BadExpression, Expression};

/// Bytes of which an expression is looked for at once: with the slowest that is taken, a fraction of a second.
const STEP: usize = 16 << 10;

/// What is looked for. An empty text is found nowhere.
#[derive(Debug)]
pub(crate) enum Needle {
    /// This text.
    Exact(Box<memmem::Finder<'static>>),
    /// This text, with ASCII letters in any case.
    AnyCase(Vec<u8>),
    /// What this expression matches.
    Expression(Box<Expression>),
}

impl Needle {
    pub(crate) fn text(text: &str, any_case: bool) -> Self {
        if any_case {
            Self::AnyCase(text.as_bytes().to_vec())
        } else {
            Self::Exact(Box::new(memmem::Finder::new(text).into_owned()))
        }
    }

    /// See [`Expression::new`].
    pub(crate) fn expression(pattern: &str, any_case: bool) -> Result<Self, BadExpression> {
        Ok(Self::Expression(Box::new(Expression::new(pattern, any_case)?)))
    }

    /// For one thread.
    pub(crate) fn finder(&self) -> Finder<'_> {
        match self {
            Self::Exact(finder) => Finder::Exact(finder),
            Self::AnyCase(text) => Finder::AnyCase(text),
            Self::Expression(expression) => Finder::Expression(expression, Box::new(expression.memory())),
        }
    }
}

/// Looks for a [`Needle`].
#[derive(Debug)]
pub(crate) enum Finder<'n> {
    /// See [`Needle::Exact`].
    Exact(&'n memmem::Finder<'static>),
    /// See [`Needle::AnyCase`].
    AnyCase(&'n [u8]),
    /// An expression and what it remembers.
    Expression(&'n Expression, Box<crate::expression::Memory>),
}

impl Finder<'_> {
    /// A place in the first line that has what is looked for.
    pub(crate) fn find(&mut self, haystack: &[u8]) -> Option<usize> {
        match self {
            Self::Exact(finder) => finder.find(haystack),
            Self::AnyCase(text) => any_case(text, haystack),
            Self::Expression(expression, memory) => expression.find(memory, haystack),
        }
    }

    /// How much of a block of lines is searched before anybody is asked whether that is still wanted: whole lines, at least one.
    pub(crate) fn step(&self, block: &[u8]) -> usize {
        if !matches!(self, Self::Expression(..)) || block.len() <= STEP {
            return block.len();
        }
        let newline = memchr::memrchr(b'\n', &block[..STEP]);
        newline.or_else(|| memchr::memchr(b'\n', block)).map_or(block.len(), |newline| newline + 1)
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
    fn steps_are_whole_lines() {
        let needle = Needle::expression("a", false).unwrap();
        let long = [&[b'x'; 2 * STEP][..], b"\nabc"].concat();
        assert_eq!(needle.finder().step(&long), 2 * STEP + 1);
        let short = "x\n".repeat(STEP);
        assert_eq!(needle.finder().step(short.as_bytes()), STEP);
        assert_eq!(needle.finder().step(&[b'x'; 2 * STEP]), 2 * STEP);
        assert_eq!(Needle::text("a", true).finder().step(&long), long.len());
    }
}
