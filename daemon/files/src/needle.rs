//! What `find` looks for: a text, whose ASCII letters may be taken in any case.

use memchr::memmem;

/// What is looked for. An empty text is found nowhere.
#[derive(Debug)]
pub(crate) enum Needle {
    /// This text.
    Exact(Box<memmem::Finder<'static>>),
    /// This text, with ASCII letters in any case.
    AnyCase(Vec<u8>),
}

impl Needle {
    pub(crate) fn text(text: &str, any_case: bool) -> Self {
        if any_case {
            Self::AnyCase(text.as_bytes().to_vec())
        } else {
            Self::Exact(Box::new(memmem::Finder::new(text).into_owned()))
        }
    }

    /// Where it is first.
    pub(crate) fn find(&self, haystack: &[u8]) -> Option<usize> {
        match self {
            Self::Exact(finder) => finder.find(haystack),
            Self::AnyCase(text) => any_case(text, haystack),
        }
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
        let found = |text: &str, haystack: &str| Needle::text(text, true).find(haystack.as_bytes());
        assert_eq!(found("needle", "a NEEDneedLE"), Some(6));
        assert_eq!(found("Needle", "needl"), None);
        assert_eq!(found("[a", "{A[A"), Some(2), "only letters have a case");
        assert_eq!(found("é", "É é"), Some(3), "only ASCII letters are alike");
        assert_eq!(Needle::text("a", false).find(b"A"), None);
    }
}
