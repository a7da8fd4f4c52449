//! Find: any expression is compiled or refused, in reasonable time and memory, and a line is found exactly if the expression, as it was written and by an
//! engine that does nothing clever, matches in that line alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinfold_files::fuzzing::matching;
use regex_automata::nfa::thompson::{Config, WhichCaptures, pikevm::PikeVM};
use regex_automata::util::syntax;

fuzz_target!(|data: &[u8]| {
    let [how, at, data @ ..] = data else { return };
    let Some(end) = data.iter().position(|&byte| byte == 0) else { return };
    let (Ok(pattern), text) = (std::str::from_utf8(&data[..end]), &data[end + 1..]) else { return };
    let any_case = how & 1 == 1;
    // The first block ends at a line's end, if there is one so late.
    let from = usize::from(*at).min(text.len());
    let cut = text[from..].iter().position(|&byte| byte == b'\n').map_or(0, |newline| from + newline + 1);
    let Some(found) = matching(pattern, any_case, text.split_at(cut)) else { return };

    let syntax = syntax::Config::new().utf8(false).multi_line(true).crlf(true).case_insensitive(any_case);
    let plain = Config::new().utf8(false).which_captures(WhichCaptures::None);
    let alone = PikeVM::builder()
        .syntax(syntax)
        .thompson(plain)
        .build(pattern)
        .expect("what is taken can be compiled");
    let mut cache = alone.create_cache();
    let mut lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    let bare = (1..).zip(lines.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)));
    let expected: Vec<u64> =
        bare.filter(|(_, line)| alone.is_match(&mut cache, *line)).map(|(number, _)| number).collect();
    assert_eq!(found, expected, "{pattern:?} in {:?}", String::from_utf8_lossy(text));
});
