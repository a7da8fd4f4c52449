//! Shell patterns for base names, with the semantics of the contract (5.2): `*` any run of non-`/`, `?` one character, `[a-z]` and `[^a-z]`
//! classes, `\` takes the next character literally. There is no `**`, no `{}` and no hidden-file rule.

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Item>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Literal(char),
    Any,
    Run,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    /// Parses a pattern; a malformed one (which matches nothing) is `None`.
    pub(crate) fn parse(pattern: &str) -> Option<Self> {
        let mut items = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(character) = rest.next() {
            items.push(match character {
                '*' => Item::Run,
                '?' => Item::Any,
                '\\' => Item::Literal(rest.next()?),
                '[' => {
                    let negated = rest.next_if_eq(&'^').is_some();
                    let mut ranges = Vec::new();
                    // A `]` ends the class only after its first range, so `[]` and `[^]` are malformed.
                    while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
                        let low = bound(&mut rest)?;
                        let high = if rest.next_if_eq(&'-').is_some() { bound(&mut rest)? } else { low };
                        ranges.push((low, high));
                    }
                    Item::Class { negated, ranges }
                }
                literal => Item::Literal(literal),
            });
        }
        Some(Self(items))
    }

    /// Whether all of `name` matches.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut item, mut position) = (0, 0);
        // Where to go on when what follows the last `*` does not fit: the `*` takes one character more.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(item), name.get(position)) {
                (Some(Item::Run), _) => {
                    retry = Some((item, position));
                    item += 1;
                    continue;
                }
                (Some(expected), Some(character)) if expected.fits(*character) => {
                    item += 1;
                    position += 1;
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            match retry {
                Some((run, taken)) if name.get(taken).is_some_and(|c| *c != '/') => {
                    retry = Some((run, taken + 1));
                    item = run + 1;
                    position = taken + 1;
                }
                _ => return false,
            }
        }
    }
}

/// One end of a range in a class.
fn bound(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match rest.next()? {
        '\\' => rest.next(),
        '-' | ']' => None,
        character => Some(character),
    }
}

impl Item {
    fn fits(&self, character: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == character,
            Self::Any => character != '/',
            Self::Run => false,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (low..=high).contains(&&character)) != *negated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_mean_what_the_contract_says() {
        let cases = [
            ("*.py", "a.py", true),
            ("*.py", ".py", true),
            ("*.py", "a.pyc", false),
            ("*", "", true),
            ("*", ".hidden", true),
            ("*", "a/b", false),
            ("?", "é", true),
            ("?", "", false),
            ("?", "/", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[a\\]]", "]", true),
            ("[\\-x]", "-", true),
            ("[xa-c]", "x", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a{b,c}", "ab", false),
            ("a{b,c}", "a{b,c}", true),
            ("**/x", "x", false),
            ("**x", "aax", true),
            ("", "", true),
            ("", "a", false),
            ("[c-a]", "b", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Glob::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
        for malformed in ["[", "[]", "[]a]", "[^]", "[a", "[a-", "[a-]", "[-x]", "a\\", "[\\", "[a-\\"] {
            assert_eq!(Glob::parse(malformed), None, "{malformed}");
        }
    }

    /// The definition, without cleverness.
    fn slow(items: &[Item], name: &[char]) -> bool {
        match (items, name) {
            ([], []) => true,
            ([Item::Run, rest @ ..], _) => {
                slow(rest, name) || name.first().is_some_and(|c| *c != '/') && slow(items, &name[1..])
            }
            ([item, rest @ ..], [character, after @ ..]) => item.fits(*character) && slow(rest, after),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in "[ab*?/\\[\\]^\\\\-]{0,8}", name in "[ab/-]{0,8}") {
            if let Some(glob) = Glob::parse(&pattern) {
                let characters: Vec<char> = name.chars().collect();
                prop_assert_eq!(glob.matches(&name), slow(&glob.0, &characters));
            }
        }

        #[test]
        fn escaped_text_matches_itself_alone(text in "\\PC{0,10}", other in "\\PC{0,10}") {
            let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
            let glob = Glob::parse(&escaped).unwrap();
            prop_assert!(glob.matches(&text));
            prop_assert_eq!(glob.matches(&other), text == other);
        }
    }
}
