//! Servers' answers, brought into the contract's shape.

use pinfold_proto::toolbox::lsp::{CompletionItem, CompletionList, Location, Range, Symbol};
use serde_json::{Value, json};

/// A completion list from a list object, a bare array, or `null`.
pub(crate) fn completions(mut answer: Value) -> CompletionList {
    let is_incomplete = answer["isIncomplete"].as_bool().unwrap_or(false);
    let items = if answer.is_array() { answer } else { answer["items"].take() };
    let items = match items {
        Value::Array(items) => items.into_iter().filter_map(item).collect(),
        _ => Vec::new(),
    };
    CompletionList { is_incomplete, items }
}

fn item(mut item: Value) -> Option<CompletionItem> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some(CompletionItem {
        label: text(&item["label"])?,
        kind: number(&item["kind"]),
        detail: text(&item["detail"]),
        documentation: documentation(item["documentation"].take()),
        sort_text: text(&item["sortText"]),
        filter_text: text(&item["filterText"]),
        insert_text: text(&item["insertText"]).or_else(|| text(&item["textEdit"]["newText"])),
    })
}

fn documentation(value: Value) -> Option<Value> {
    match value {
        Value::String(text) => Some(json!({"kind": "plaintext", "value": text})),
        Value::Object(_) => Some(value),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

/// Symbols from flat symbol information, or from a hierarchy of a document's symbols, which is flattened.
pub(crate) fn symbols(answer: &Value, uri: &str) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    // Deeper than any source; a hostile server cannot exhaust the stack.
    collect(answer, uri, &mut symbols, 64);
    symbols
}

fn collect(answer: &Value, uri: &str, symbols: &mut Vec<Symbol>, depth: u32) {
    for symbol in answer.as_array().into_iter().flatten() {
        let location = &symbol["location"];
        let range =
            range(&location["range"]).or_else(|| range(&symbol["selectionRange"])).unwrap_or_default();
        let uri = location["uri"].as_str().unwrap_or(uri);
        if let (Some(name), Some(kind)) = (symbol["name"].as_str(), number(&symbol["kind"])) {
            let location = Location { uri: uri.to_owned(), range };
            symbols.push(Symbol { kind, name: name.to_owned(), location });
        }
        if depth > 0 {
            collect(&symbol["children"], uri, symbols, depth - 1);
        }
    }
}

fn range(value: &Value) -> Option<Range> {
    serde_json::from_value(value.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_in_every_shape() {
        let list = json!({"items": [{"label": "a", "documentation": "text", "kind": 3, "textEdit": {"newText": "a()"}}, {"no": 1}]});
        let expected = json!({"isIncomplete": false, "items": [
            {"label": "a", "kind": 3, "documentation": {"kind": "plaintext", "value": "text"}, "insertText": "a()"}]});
        assert_eq!(serde_json::to_value(completions(list)).ok(), Some(expected));
        assert_eq!(completions(Value::Null), CompletionList { is_incomplete: false, items: vec![] });
        assert_eq!(completions(json!([{"label": "x"}])).items.len(), 1);
        let markup = json!({"isIncomplete": true, "items": [{"label": "m", "documentation": {"kind": "markdown", "value": "*m*"}}]});
        let markup = completions(markup);
        assert_eq!(
            (markup.is_incomplete, &markup.items[0].documentation),
            (true, &Some(json!({"kind": "markdown", "value": "*m*"})))
        );
    }

    #[test]
    fn symbols_flat_and_nested() {
        let range = json!({"start": {"line": 0, "character": 0}, "end": {"line": 1, "character": 2}});
        let flat = json!([{"name": "A", "kind": 5, "location": {"uri": "file:///x", "range": range}}]);
        assert_eq!(symbols(&flat, "file:///y")[0].location.uri, "file:///x");
        let nested = json!([{"name": "A", "kind": 5, "selectionRange": range, "children": [{"name": "b", "kind": 6, "selectionRange": range}]}]);
        let nested = symbols(&nested, "file:///y");
        assert_eq!(nested.iter().map(|symbol| symbol.name.as_str()).collect::<Vec<_>>(), ["A", "b"]);
        assert_eq!(
            (nested[1].location.uri.as_str(), nested[1].location.range.end.character),
            ("file:///y", 2)
        );
        assert_eq!(symbols(&Value::Null, ""), []);
    }
}
