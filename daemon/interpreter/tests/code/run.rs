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
