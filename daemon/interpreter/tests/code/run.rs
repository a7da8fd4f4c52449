//! Code-run: the contract's section 7.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Server, commands_with, eventually, processes, processes_on};

async fn start() -> Server {
    Server::start(pinfold_interpreter::router(processes(), 8)).await
}

async fn run(server: &Server, request: Value) -> (StatusCode, Value) {
    server.call("POST", "/process/code-run", &request.to_string()).await
}

/// Exit code and output.
async fn outcome(server: &Server, request: Value) -> (i64, String) {
    let (status, answer) = run(server, request).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(answer.get("artifacts").is_none(), "{answer}");
    (answer["exitCode"].as_i64().unwrap(), answer["result"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn python_sees_what_it_sees_on_standard_input() {
    let server = start().await;
    let code = "import os, sys\nprint(sys.argv, __name__, os.environ['A'], os.getcwd())\nprint('err', file=sys.stderr)\n\
        print(repr(sys.stdin.read()), flush=True)\nos.system('cat; echo child')\nsys.exit(3)";
    let argv = ["x y", "$HOME", "*", "a'b\"c", ""];
    let (exit, result) =
        outcome(&server, json!({"code":code,"language":"python","argv":argv,"envs":{"A":"1"}})).await;
    assert_eq!(result, "['-', 'x y', '$HOME', '*', 'a\\'b\"c', ''] __main__ 1 /tmp\nerr\n''\nchild\n");
    assert_eq!(exit, 3);
    let (exit, result) =
        outcome(&server, json!({"code":"def f():\n    input()\nf()","language":"python"})).await;
    assert_eq!(exit, 1);
    assert!(
        result.contains("File \"<stdin>\", line 3, in <module>") && result.contains("EOFError"),
        "{result}"
    );
    let (exit, result) = outcome(&server, json!({"code":"1 +","language":"python"})).await;
    assert!(exit == 1 && result.contains("SyntaxError"), "{result}");
    let (exit, _) =
        outcome(&server, json!({"code":"import os; os.kill(os.getpid(), 15)","language":"python"})).await;
    assert_eq!(exit, 143);
    let long = format!("x = {:?}\nprint(len(x))", "é".repeat(700_000));
    assert_eq!(outcome(&server, json!({"code":long,"language":"python"})).await.1, "700000\n");
}

#[tokio::test]
async fn javascript_has_its_arguments_and_lines() {
    let server = start().await;
    let code = "const fs = require('fs');\nconsole.log(process.argv.slice(1), process.env.A, require.main === module);\nconsole.log(fs.readFileSync(0).length === 0);\nprocess.exit(4)";
    let (exit, result) =
        outcome(&server, json!({"code":code,"language":"javascript","argv":["x y","*"],"envs":{"A":"1"}}))
            .await;
    assert!(result.starts_with("[ 'x y', '*' ] 1 "), "{result}");
    assert_eq!(exit, 4);
    let (exit, result) = outcome(&server, json!({"code":"\n\nnope()","language":"javascript"})).await;
    assert!(exit == 1 && result.contains("[stdin]:3") && result.contains("ReferenceError"), "{result}");
}

/// `TYPESCRIPT` names directories, separated by colons, each of which holds one way to run it (`tsx`, `ts-node`, or a `node` of 22.7 or later).
#[tokio::test]
#[ignore = "needs the directories in TYPESCRIPT"]
async fn typescript_runs_with_whatever_there_is() {
    let system = std::env::var("PATH").unwrap();
    for directory in std::env::var("TYPESCRIPT").expect("TYPESCRIPT").split(':') {
        let server =
            Server::start(pinfold_interpreter::router(processes_on(&format!("{directory}:{system}")), 8))
                .await;
        // Newer versions of node only take types away, so no enum.
        let code = "type Colour = 7 | 8;\nconst f = (x: number): string => `<${x}>`;\nconst os = require('os');\n\
            console.log(process.argv.slice(1), f(7 as Colour), process.env.A, typeof os.tmpdir());\nprocess.exit(5);";
        let (exit, result) = outcome(
            &server,
            json!({"code":code,"language":"typescript","argv":["x y","*"],"envs":{"A":"1"}}),
        )
        .await;
        assert_eq!((exit, result.as_str()), (5, "[ 'x y', '*' ] <7> 1 string\n"), "{directory}");
        let (exit, result) =
            outcome(&server, json!({"code":"const a: number = 1;\n\nnope();","language":"typescript"})).await;
        assert!(
            exit == 1 && result.contains(":3") && result.contains("ReferenceError"),
            "{directory}: {result}"
        );
    }
}

#[tokio::test]
async fn a_missing_interpreter_is_a_shells_127() {
    let server = Server::start(pinfold_interpreter::router(processes_on("/nowhere"), 8)).await;
    for (language, program) in [("python", "python3"), ("javascript", "node"), ("typescript", "npx")] {
        let (exit, result) = outcome(&server, json!({"code":"1","language":language})).await;
        assert_eq!((exit, result), (127, format!("{program}: command not found\n")));
    }
    let (exit, result) = outcome(&server, json!({"code":"import matplotlib","language":"python"})).await;
    assert_eq!((exit, result.as_str()), (127, "python3: command not found\n"));
}

#[tokio::test]
async fn a_timeout_kills_everything_and_is_408() {
    let server = start().await;
    let began = Instant::now();
    let code = "import subprocess\nprint('partial')\nsubprocess.Popen(['setsid', 'sleep', '4711']).wait()";
    let (status, answer) = run(&server, json!({"code":code,"language":"python","timeout":1})).await;
    assert_eq!((status, &answer["code"]), (StatusCode::REQUEST_TIMEOUT, &json!("PROCESS_EXECUTION_TIMEOUT")));
    assert!(answer["message"].as_str().unwrap().contains("timeout"));
    assert!(began.elapsed() < Duration::from_secs(45));
    eventually("everything to be killed", || commands_with("sleep 4711 ").is_empty()).await;
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let server = start().await;
    let cases = [
        (json!({"language":"python"}), "INVALID_REQUEST_BODY"),
        (json!({"code":"1"}), "INVALID_REQUEST_BODY"),
        (json!({"code":1,"language":"python"}), "INVALID_REQUEST_BODY"),
        (json!({"code":"1","language":"python","timeout":-1}), "INVALID_REQUEST_BODY"),
        (json!({"code":"1","language":"ruby"}), "BAD_REQUEST"),
        (json!({"code":"1","language":"python","envs":{"a-b":"1"}}), "BAD_REQUEST"),
        (json!({"code":"1","language":"python","argv":["a\0b"]}), "BAD_REQUEST"),
    ];
    for (request, code) in cases {
        let (status, answer) = run(&server, request.clone()).await;
        assert_eq!((status, &answer["code"]), (StatusCode::BAD_REQUEST, &json!(code)), "{request}: {answer}");
    }
}

#[tokio::test]
async fn a_program_that_mentions_matplotlib_runs_without_it() {
    let server = start().await;
    let code = "import sys\ntry:\n    import matplotlib_nowhere\nexcept ImportError:\n    print('none')\nimportlib = 0\ndef f():\n    raise ValueError('x')\n\
        print(sys.argv, __name__)\nif False:\n    import matplotlib\nf()";
    let (exit, result) = outcome(&server, json!({"code":code,"language":"python","argv":["a b"]})).await;
    assert_eq!(exit, 1);
    assert!(
        result.starts_with("none\n['-', 'a b'] __main__\nTraceback (most recent call last):\n"),
        "{result}"
    );
    assert!(result.contains("File \"<target_code>\", line 12, in <module>"), "{result}");
    assert!(result.ends_with("ValueError: x\n") && !result.contains("<string>"), "{result}");
    let (exit, result) =
        outcome(&server, json!({"code":"import matplotlib_x if 0 else os","language":"python"})).await;
    assert!(exit == 1 && result.contains("SyntaxError"), "{result}");
}

mod charts {
    use super::*;

    const SETUP: &str = "import matplotlib.pyplot as plt, numpy as np, datetime as dt\n";

    /// The charts of a program, and that nothing else came of it.
    async fn drawn(code: &str) -> Vec<Value> {
        let server = start().await;
        let (status, answer) =
            run(&server, json!({"code":format!("{SETUP}{code}"),"language":"python"})).await;
        assert_eq!(
            (status, &answer["exitCode"], &answer["result"]),
            (StatusCode::OK, &json!(0), &json!("")),
            "{answer}"
        );
        let charts = answer["artifacts"]["charts"].as_array().cloned().unwrap_or_default();
        for chart in &charts {
            assert!(chart["png"].as_str().unwrap().starts_with("iVBORw0KGgo"), "a PNG");
            assert!(!chart.to_string().contains("null"), "{chart}");
        }
        charts
    }

    #[tokio::test]
    #[ignore = "needs a python3 with matplotlib, numpy and pillow first in PATH"]
    async fn lines_and_scatters() {
        let charts = drawn(
            "plt.plot([1, 2, 3], [1, float('nan'), 9], label='a'); plt.axhline(5); plt.title('T'); plt.xlabel('X'); plt.ylabel('Y'); plt.yscale('log'); plt.grid(); plt.show()\n\
             plt.scatter([1, 2], [3, 4], label='s'); plt.show()",
        )
        .await;
        assert_eq!(charts.len(), 2);
        let line = &charts[0];
        assert_eq!(
            (&line["type"], &line["title"], &line["x_label"], &line["y_label"]),
            (&json!("line"), &json!("T"), &json!("X"), &json!("Y"))
        );
        assert_eq!(line["elements"], json!([{"label":"a","points":[[1.0,1.0],[3.0,9.0]]}]));
        assert_eq!((&line["x_scale"], &line["y_scale"]), (&json!("linear"), &json!("log")));
        assert_eq!(charts[1]["type"], "scatter");
        assert_eq!(charts[1]["elements"], json!([{"label":"s","points":[[1.0,3.0],[2.0,4.0]]}]));
    }

    #[tokio::test]
    #[ignore = "needs a python3 with matplotlib, numpy and pillow first in PATH"]
    async fn bars_either_way() {
        let charts = drawn(
            "plt.bar(['a', 'b'], [1, 2.5], label='g'); plt.xlabel('X'); plt.show()\n\
             plt.barh(['a', 'b'], [1, 1e22]); plt.xlabel('X'); plt.ylabel('Y'); plt.show()\n\
             plt.bar(['a', 'b'], [7, 7]); plt.show()\n\
             plt.bar(np.arange(2) - 0.2, [1, 2], 0.4, label='p'); plt.bar(np.arange(2) + 0.2, [3, float('nan')], 0.4, label='q'); plt.xticks([0, 1], ['u', 'v']); plt.show()",
        )
        .await;
        assert_eq!(charts[0]["type"], "bar");
        assert_eq!(
            charts[0]["elements"],
            json!([{"label":"a","group":"g","value":"1"},{"label":"b","group":"g","value":"2.5"}])
        );
        assert_eq!(
            (&charts[0]["x_scale"], &charts[0]["x_tick_labels"]),
            (&json!("categorical"), &json!(["a", "b"]))
        );
        assert_eq!((&charts[1]["x_label"], &charts[1]["y_label"]), (&json!("Y"), &json!("X")));
        assert_eq!(charts[1]["elements"][1]["value"], "10000000000000000000000");
        assert_eq!(charts[2]["elements"][1]["value"], "7");
        assert_eq!(charts[2]["elements"][1]["label"], "b");
        let grouped = charts[3]["elements"].as_array().unwrap();
        let labels: Vec<_> =
            grouped.iter().map(|e| (e["label"].as_str().unwrap(), e["group"].as_str().unwrap())).collect();
        assert_eq!(labels, [("u", "p"), ("v", "p"), ("u", "q"), ("v", "q")]);
        assert!(grouped[3].get("value").is_none(), "NaN is left out");
    }

    #[tokio::test]
    #[ignore = "needs a python3 with matplotlib, numpy and pillow first in PATH"]
    async fn pies_and_boxes() {
        let charts = drawn(
            "plt.pie([1, 3], labels=['a', 'b'], autopct='%d%%', shadow=True); plt.show()\n\
             d = [1, 2, 3, 4, 5, 20]\nplt.boxplot([d, [2, 3, 4]], patch_artist=True, tick_labels=['m', 'n']); plt.ylabel('Y'); plt.show()\n\
             plt.boxplot([d], patch_artist=True, orientation='horizontal', tick_labels=['m']); plt.xlabel('X'); plt.show()",
        )
        .await;
        assert_eq!(charts[0]["type"], "pie");
        assert_eq!(
            charts[0]["elements"],
            json!([{"label":"a","angle":90.0,"radius":1.0},{"label":"b","angle":270.0,"radius":1.0}])
        );
        let expected = json!({"label":"m","min":1.0,"first_quartile":2.25,"median":3.5,"third_quartile":4.75,"max":5.0,"outliers":[20.0]});
        assert_eq!((&charts[1]["type"], &charts[1]["elements"][0]), (&json!("box_and_whisker"), &expected));
        assert_eq!(
            (&charts[1]["elements"][1]["label"], &charts[1]["elements"][1]["median"]),
            (&json!("n"), &json!(3.0))
        );
        assert_eq!(charts[2]["elements"], json!([expected]));
        assert_eq!(charts[2]["y_label"], "X");
    }

    #[tokio::test]
    #[ignore = "needs a python3 with matplotlib, numpy and pillow first in PATH"]
    async fn dates_composites_and_the_rest() {
        let charts = drawn(
            "days = [dt.datetime(2026, 1, d) for d in (1, 2, 3)]\nplt.plot(days, [1, 2, 3]); plt.show()\n\
             fig, axes = plt.subplots(1, 3)\nfig.suptitle('S'); axes[0].plot([1, 2, 3], [1, 2, 3]); axes[0].set_title('L'); axes[1].bar(['a', 'b'], [1, 2]); axes[1].set_xlabel('X'); plt.show()\n\
             im = plt.imshow(np.eye(3)); plt.colorbar(im); plt.title('I'); plt.show()\n\
             plt.figure(); plt.show()\n\
             plt.plot([1, 2, 3]); plt.show(); plt.plot([1, 2, 3]); plt.show()",
        )
        .await;
        assert_eq!(charts.len(), 5, "an image is reported once");
        assert_eq!(charts[0]["x_scale"], "datetime");
        assert!(
            charts[0]["x_ticks"][0].is_f64()
                && charts[0]["x_tick_labels"][0].as_str().unwrap().starts_with("2026-01-0")
        );
        assert_eq!(charts[0]["elements"][0]["points"][0], json!([20454.0, 1.0]));
        assert_eq!((&charts[1]["type"], &charts[1]["title"]), (&json!("composite_chart"), &json!("S")));
        assert_eq!(
            charts[1]["elements"],
            json!([{"type":"line","title":"L","x_label":"","y_label":""},{"type":"bar","title":"","x_label":"X","y_label":""}])
        );
        assert_eq!(
            (&charts[2]["type"], &charts[2]["title"], &charts[2]["elements"]),
            (&json!("unknown"), &json!("I"), &json!([]))
        );
        assert_eq!((&charts[3]["type"], &charts[4]["type"]), (&json!("unknown"), &json!("line")));
    }

    #[tokio::test]
    #[ignore = "needs a python3 with matplotlib, numpy and pillow first in PATH"]
    async fn output_is_only_what_the_program_wrote() {
        let server = start().await;
        let code = format!(
            "{SETUP}print('no newline', end='')\nplt.plot([1, 2])\nplt.show()\nprint('|after')\nraise SystemExit(5)"
        );
        let (_, answer) = run(&server, json!({"code":code,"language":"python"})).await;
        assert_eq!((&answer["result"], &answer["exitCode"]), (&json!("no newline|after\n"), &json!(5)));
        assert_eq!(answer["artifacts"]["charts"][0]["type"], "line");
    }
}
