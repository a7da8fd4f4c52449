//! The stateful interpreter, code-run and its charts: bodies and socket messages (toolbox contract 7 and 11).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::null;

/// The id of the context that always exists.
pub const DEFAULT_CONTEXT: &str = "default";
/// The only language of contexts.
pub const PYTHON: &str = "python";
/// Seconds that an execution may take if its request does not say.
pub const DEFAULT_TIMEOUT: f64 = 600.0;

/// Body of `POST /process/interpreter/context`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateContext {
    /// Start directory; the work directory if absent or empty.
    #[serde(default, deserialize_with = "null::as_default")]
    pub cwd: String,
    /// Absent or `python`.
    #[serde(default, deserialize_with = "null::as_default")]
    pub language: String,
}

/// One context. Every member is mandatory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContextInfo {
    /// A UUID, or `default`.
    pub id: String,
    /// Start directory.
    pub cwd: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Whether its worker runs; one that does not is started afresh when the context is used.
    pub active: bool,
    /// `python`.
    pub language: String,
}

/// Answer to `GET /process/interpreter/context`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextList {
    /// All contexts but the default one, oldest first.
    pub contexts: Vec<ContextInfo>,
}

/// The first message of an execution's socket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecuteCode {
    /// Python source. Required.
    #[serde(default, deserialize_with = "null::as_default")]
    pub code: String,
    /// Absent for the default context.
    #[serde(default, deserialize_with = "null::as_default")]
    pub context_id: String,
    /// Set in `os.environ` for this execution only.
    #[serde(default, deserialize_with = "null::string_map")]
    pub envs: BTreeMap<String, String>,
    /// Seconds; absent means [`DEFAULT_TIMEOUT`], 0 none.
    #[serde(default)]
    pub timeout: Option<f64>,
}

/// What an execution's message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageKind {
    /// `text` was written to standard output.
    Stdout,
    /// `text` was written to standard error.
    Stderr,
    /// The code raised an exception.
    Error,
    /// The execution is over; `text` is [`COMPLETED`] or [`INTERRUPTED`].
    Control,
}

/// `text` of a control message after an execution that ran to its end or to an exception.
pub const COMPLETED: &str = "completed";
/// `text` of a control message after an interrupted execution.
pub const INTERRUPTED: &str = "interrupted";

/// One message of an execution. All members are always there; those without use are empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionMessage {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: MessageKind,
    /// Output, or a control word.
    pub text: String,
    /// Name of an exception.
    pub name: String,
    /// Text of an exception.
    pub value: String,
    /// Traceback of an exception, as Python prints it.
    pub traceback: String,
}

impl ExecutionMessage {
    /// Output or control.
    pub fn text(kind: MessageKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), name: String::new(), value: String::new(), traceback: String::new() }
    }

    /// An exception.
    pub fn error(name: impl Into<String>, value: impl Into<String>, traceback: impl Into<String>) -> Self {
        Self {
            kind: MessageKind::Error,
            text: String::new(),
            name: name.into(),
            value: value.into(),
            traceback: traceback.into(),
        }
    }
}

/// Body of `POST /process/code-run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRun {
    /// The program. Required.
    #[serde(default, deserialize_with = "null::as_default")]
    pub code: String,
    /// `python`, `javascript` or `typescript`.
    #[serde(default, deserialize_with = "null::as_default")]
    pub language: String,
    /// The program's arguments.
    #[serde(default, deserialize_with = "null::list")]
    pub argv: Vec<String>,
    /// Added over the daemon's environment.
    #[serde(default, deserialize_with = "null::string_map")]
    pub envs: BTreeMap<String, String>,
    /// Seconds; absent or 0 for no limit.
    #[serde(default)]
    pub timeout: Option<u32>,
}

/// What code-run found beside output.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Artifacts {
    /// Charts that the program showed, in order.
    pub charts: Vec<Chart>,
}

/// A figure that a program showed (toolbox contract 7.3). Absent members are unknown or without meaning for the type; none is ever null.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chart {
    /// `line`, `scatter`, `bar`, `pie`, `box_and_whisker`, `composite_chart` or `unknown`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Title of the axes, else of the figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Label of the horizontal axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x_label: Option<String>,
    /// Label of the vertical axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y_label: Option<String>,
    /// Positions of ticks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x_ticks: Option<Vec<f64>>,
    /// Texts of ticks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x_tick_labels: Option<Vec<String>>,
    /// `linear`, `log` …, `categorical` or `datetime`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x_scale: Option<String>,
    /// Positions of ticks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y_ticks: Option<Vec<f64>>,
    /// Texts of ticks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y_tick_labels: Option<Vec<String>>,
    /// As `x_scale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y_scale: Option<String>,
    /// The whole figure, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub png: Option<String>,
    /// What was drawn.
    pub elements: Vec<ChartElement>,
}

/// A part of a chart. Which members there are depends on the chart's type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChartElement {
    /// Name of a line, bar, slice or box.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Lines and scatters: pairs of x and y.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub points: Option<Vec<[f64; 2]>>,
    /// Bars: the series a bar belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Bars: a decimal number, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Pies: degrees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub angle: Option<f64>,
    /// Pies: radius.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub radius: Option<f64>,
    /// Boxes: end of the lower whisker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Boxes: first quartile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_quartile: Option<f64>,
    /// Boxes: median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median: Option<f64>,
    /// Boxes: third quartile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub third_quartile: Option<f64>,
    /// Boxes: end of the upper whisker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Boxes: points beyond the whiskers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Vec<f64>>,
    /// Composites: the part's type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Composites: the part's title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Composites: the part's image, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub png: Option<String>,
    /// Composites: the part's label of the horizontal axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x_label: Option<String>,
    /// Composites: the part's label of the vertical axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y_label: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_always_have_all_members() {
        let json = serde_json::to_string(&ExecutionMessage::text(MessageKind::Stdout, "42\n")).unwrap();
        assert_eq!(json, r#"{"type":"stdout","text":"42\n","name":"","value":"","traceback":""}"#);
    }

    #[test]
    fn requests_may_hold_nulls() {
        let request: ExecuteCode =
            serde_json::from_str(r#"{"code":"1","contextId":null,"envs":null,"timeout":null}"#).unwrap();
        assert_eq!(request, ExecuteCode { code: "1".into(), ..ExecuteCode::default() });
        let request: CodeRun =
            serde_json::from_str(r#"{"code":"1","language":"python","argv":null}"#).unwrap();
        assert!(request.argv.is_empty());
    }
}
