//! Interpreter contexts: the contract's section 11, and its weaknesses in 26.5.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::json;

use crate::harness::{DEADLINE, Server, commands_with, eventually, processes, processes_on};

async fn start() -> Server {
    Server::start(pinfold_interpreter::router(processes(), 8)).await
}

#[tokio::test]
async fn state_stays_and_the_order_is_output_control_close() {
    let server = start().await;
    let first = server
        .run("import sys\nx = 6\nprint('out', end='')\nprint('err', file=sys.stderr)\nprint(__name__)")
        .await;
    assert_eq!((first.stdout.as_str(), first.stderr.as_str()), ("out__main__\n", "err\n"));
    assert_eq!(first.order.last().unwrap(), "control");
    assert_eq!(first.controls, ["completed"]);
    assert_eq!(first.close, Some((1000, String::new())));
    let second = server.run("print(x * 7)\nx").await;
    assert_eq!(second.stdout, "42\n", "and no echo of the last expression");
}

#[tokio::test]
async fn exceptions_show_user_frames_only_and_keep_the_state() {
    let server = start().await;
    let run = server.run("import json\ny = 1\ndef f(n):\n    return 1 / n\nf(0)").await;
    assert_eq!(run.order, ["error", "control"]);
    let error = &run.errors[0];
    assert_eq!((&error["name"], &error["value"]), (&json!("ZeroDivisionError"), &json!("division by zero")));
    assert_eq!(
        error["traceback"],
        "Traceback (most recent call last):\n  File \"<stdin>\", line 5, in <module>\n    f(0)\n  File \"<stdin>\", line 4, in f\n    return 1 / n\nZeroDivisionError: division by zero\n"
    );
    assert_eq!((run.controls[0].as_str(), run.code()), ("completed", 1000));

    let run = server.run("print('before')\nf(0)").await;
    let trace = run.errors[0]["traceback"].as_str().unwrap();
    assert!(trace.contains("line 4, in f\nZero"), "lines of earlier code are not invented: {trace}");
    assert_eq!(run.order, ["stdout", "error", "control"]);

    let run = server.run("json.loads('{')").await;
    let trace = run.errors[0]["traceback"].as_str().unwrap();
    assert!(!trace.contains("decoder.py") && trace.contains("json.loads('{')"), "{trace}");

    let run = server.run("1 +").await;
    assert_eq!(run.errors[0]["name"], "SyntaxError");
    assert!(run.errors[0]["traceback"].as_str().unwrap().contains("SyntaxError: invalid syntax"));
    let run =
        server.run("try:\n    1/0\nexcept Exception as e:\n    raise ValueError('\\udc80x') from e").await;
    let trace = run.errors[0]["traceback"].as_str().unwrap();
    assert!(trace.contains("direct cause") && trace.contains("ValueError: \\udc80x"), "{trace}");
    let run = server.run("class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E").await;
    assert_eq!(run.errors[0]["name"], "E");
    assert_eq!(server.run("print(y)").await.stdout, "1\n");
}

#[tokio::test]
async fn leaving_is_a_normal_end() {
    let server = start().await;
    let run = server.run("import sys\nz = 3\nsys.exit(4)").await;
    assert_eq!((run.errors.len(), run.controls[0].as_str(), run.code()), (0, "completed", 1000));
    assert_eq!(server.run("print(z)").await.stdout, "3\n");
}

#[tokio::test]
async fn environment_is_for_one_execution() {
    let server = start().await;
    server.run("import os\nos.environ['OLD'] = 'kept'").await;
    let code = "print(os.environ.get('OLD'), os.environ.get('NEW'), flush=True)\nos.system('echo $OLD $NEW')";
    let run = server.execute(&json!({"code":code,"envs":{"OLD":"changed","NEW":"1"}})).await;
    assert_eq!(run.stdout, "changed 1\nchanged 1\n");
    assert_eq!(server.run(code).await.stdout, "kept None\nkept\n");
}

#[tokio::test]
async fn children_and_descriptors_are_captured_in_order() {
    let server = start().await;
    let code = "import os, subprocess, sys\nprint('a')\nos.system('echo b; echo e >&2')\nos.write(1, b'c\\n')\n\
        subprocess.run(['echo', 'd'])\nsubprocess.run(['cat'])\nsubprocess.run('echo f', shell=True, stdout=sys.stdout)\n\
        sys.stdout.buffer.write(b'g\\n')\nsys.stdout.buffer.flush()\nprint('h')";
    let run = server.run(code).await;
    assert_eq!(run.stdout, "a\nb\nc\nd\nf\ng\nh\n");
    assert_eq!(run.stderr, "e\n");
    let run = server.run("for i in range(3):\n    print('o', i)\n    print('e', i, file=sys.stderr)").await;
    assert_eq!(run.order, ["stdout", "stderr", "stdout", "stderr", "stdout", "stderr", "control"]);
    let run =
        server.run("print(sys.stdout.isatty(), sys.stdout.encoding, sys.stdin.read() == '')\ninput()").await;
    assert_eq!(run.stdout, "False utf-8 True\n");
    assert_eq!(run.errors[0]["name"], "EOFError");
    assert_eq!(server.run("os.close(1)\nprint('lost')").await.code(), 1000);
}

#[tokio::test]
async fn large_output_and_split_characters_arrive_whole() {
    let server = start().await;
    let run = server.run("print('é' * 3_000_000)\nprint('x' * 5_000_000, end='')").await;
    assert_eq!(run.stdout.chars().filter(|c| *c == 'é').count(), 3_000_000);
    assert!(run.stdout.ends_with("xxx") && !run.stdout.contains('\u{FFFD}'));
    assert_eq!(run.stdout.len(), 6_000_000 + 1 + 5_000_000);
}

#[tokio::test]
async fn a_timeout_interrupts_and_keeps_the_state() {
    let server = start().await;
    let context = async || {
        let (_, made) = server.call("POST", "/process/interpreter/context", "{}").await;
        made["id"].as_str().unwrap().to_owned()
    };
    let (first, second, third) = (context().await, context().await, context().await);
    let run =
        async |context: &str, code: &str| server.execute(&json!({"code":code,"contextId":context})).await;
    let limited = async |context: &str, code: &str, timeout: u32| {
        server.execute(&json!({"code":code,"contextId":context,"timeout":timeout})).await
    };
    let plain = async {
        run(&first, "kept = 'yes'").await;
        let began = Instant::now();
        // Far more time than the first line takes.
        let run_out = limited(&first, "import time\nprint('on')\nwhile True: time.sleep(0.01)", 5).await;
        assert!((5.0..45.0).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
        assert_eq!(
            (run_out.stdout.as_str(), run_out.controls[0].as_str(), run_out.code()),
            ("on\n", "interrupted", 4008)
        );
        assert!(run_out.close.unwrap().1.contains("state is kept"));
        assert_eq!(run(&first, "print(kept)").await.stdout, "yes\n");
    };
    // A child that the worker waits for deafly is interrupted as well.
    let deaf = async {
        let run = limited(&second, "import os, time\nos.system('sleep 60')\ntime.sleep(60)", 1).await;
        assert_eq!(run.code(), 4008);
        assert!(run.close.unwrap().1.contains("state is kept"));
    };
    // The code catches it once; it is over within two seconds all the same.
    let stubborn = async {
        let code =
            "import time\nlost = 1\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    time.sleep(60)";
        let run_out = limited(&third, code, 1).await;
        assert_eq!((run_out.controls[0].as_str(), run_out.code()), ("interrupted", 4008));
        assert!(run_out.close.unwrap().1.contains("state is lost"));
        let fresh = run(&third, "print('lost' in globals())").await;
        assert_eq!((fresh.stdout.as_str(), fresh.code()), ("False\n", 1000), "a fresh worker");
        let own = run(&third, "raise KeyboardInterrupt").await;
        assert_eq!((own.controls[0].as_str(), own.code()), ("interrupted", 4008));
    };
    tokio::join!(plain, deaf, stubborn);
}

#[tokio::test]
async fn closing_with_4000_interrupts_and_any_other_close_does_not() {
    let server = start().await;
    let mut socket = server
        .begin(&json!({"code":"import time\ndone = False\nprint('go')\ntime.sleep(60)\ndone = True"}))
        .await;
    socket.until("go").await;
    let began = Instant::now();
    socket.close(4000).await;
    let run = server.run("print(done)").await;
    assert_eq!(run.stdout, "False\n");
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());

    let mut socket =
        server.begin(&json!({"code":"print('go')\ntime.sleep(0.5)\nprint('unheard')\ndone = True"})).await;
    socket.until("go").await;
    socket.close(1000).await;
    let run = server.run("print(done)").await;
    assert_eq!(run.stdout, "True\n", "the execution went on, and its output went nowhere");
}

#[tokio::test]
async fn executions_of_one_context_are_in_order_and_contexts_are_parallel() {
    let server = start().await;
    let (_, a) = server.call("POST", "/process/interpreter/context", "{}").await;
    let (_, b) = server.call("POST", "/process/interpreter/context", r#"{"language":null,"cwd":null}"#).await;
    let (a, b) = (a["id"].as_str().unwrap(), b["id"].as_str().unwrap());
    server.execute(&json!({"code":"import os, time\nseen = []","contextId":a})).await;
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let waits = format!("print('on')\nwhile not os.path.exists({go:?}): time.sleep(.02)\nseen.append(0)");
    let slow = server.begin(&json!({"code":waits,"contextId":a})).await;
    let mut queued = Vec::new();
    for i in 1..5 {
        queued.push(
            server.begin(&json!({"code":format!("seen.append({i})\nprint(seen)"),"contextId":a})).await,
        );
        // Only what has arrived has an order.
        queued.last_mut().unwrap().has_been_read().await;
    }
    let other = server.execute(&json!({"code":"print('parallel')","contextId":b})).await;
    assert_eq!(other.stdout, "parallel\n");
    std::fs::write(&go, "").unwrap();
    slow.finish().await;
    let mut outputs = Vec::new();
    for socket in queued {
        outputs.push(socket.finish().await.stdout);
    }
    assert_eq!(outputs.last().unwrap(), "[0, 1, 2, 3, 4]\n", "{outputs:?}");
    let run = server.execute(&json!({"code":"print(seen)","contextId":b})).await;
    assert_eq!(run.errors[0]["name"], "NameError", "contexts are apart");
}

#[tokio::test]
async fn contexts_are_listed_deleted_and_refused() {
    let server = start().await;
    let home = tempfile::tempdir().unwrap();
    let cwd = home.path().to_str().unwrap();
    let (status, info) = server
        .call("POST", "/process/interpreter/context", &json!({"cwd":cwd,"language":"python"}).to_string())
        .await;
    assert_eq!(status, StatusCode::OK);
    let (id, created) = (info["id"].as_str().unwrap(), info["createdAt"].as_str().unwrap());
    uuid::Uuid::parse_str(id).unwrap();
    created.parse::<jiff::Timestamp>().unwrap();
    assert_eq!(info, json!({"id":id,"cwd":cwd,"createdAt":created,"active":true,"language":"python"}));
    server.run("pass").await;
    assert_eq!(
        server.call("GET", "/process/interpreter/context", "").await.1,
        json!({"contexts":[info]}),
        "without the default one"
    );
    let run = server.execute(&json!({"code":"import os\nprint(os.getcwd())","contextId":id})).await;
    assert_eq!(run.stdout.trim(), cwd);

    let mut running =
        server.begin(&json!({"code":"import subprocess, time\nsubprocess.Popen(['setsid', 'sleep', '4712'])\nprint('on')\ntime.sleep(60)","contextId":id})).await;
    running.until("on").await;
    let mut waiting = server.begin(&json!({"code":"print('never')","contextId":id})).await;
    waiting.has_been_read().await;
    let path = format!("/process/interpreter/context/{id}");
    let (status, answer) = server.call("DELETE", &path, "").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    eventually("its children to go with it", || commands_with("sleep 4712 ").is_empty()).await;
    assert_eq!(running.finish().await.code(), 1001);
    assert_eq!(waiting.finish().await.code(), 1008);
    assert_eq!(server.execute(&json!({"code":"1","contextId":id})).await.code(), 1008);

    let cases = [
        ("DELETE", path.as_str(), "", 404),
        ("DELETE", "/process/interpreter/context/default", "", 400),
        ("POST", "/process/interpreter/context", r#"{"language":"ruby"}"#, 400),
        ("POST", "/process/interpreter/context", "{", 400),
        ("POST", "/process/interpreter/context", r#"{"cwd":"/does/not/exist"}"#, 500),
        ("GET", "/process/interpreter/execute", "", 400),
    ];
    for (method, path, body, expected) in cases {
        let (status, answer) = server.call(method, path, body).await;
        assert_eq!(status.as_u16(), expected, "{method} {path} {body}: {answer}");
        assert_eq!(answer["source"], "DAYTONA_DAEMON");
    }
}

#[tokio::test]
async fn bad_requests_close_with_their_code() {
    let server = start().await;
    let cases = [
        ("no json", 1002),
        ("[1", 1002),
        (r#"{"code":5}"#, 1002),
        (r#"{}"#, 1008),
        (r#"{"code":"1","timeout":-1}"#, 1008),
        (r#"{"code":"1","contextId":"nobody"}"#, 1008),
        (r#"{"code":"1","envs":{"a=b":"1"}}"#, 1008),
        (r#"{"code":"1","timeout":1e300}"#, 1000),
        (r#"{"code":"1","timeout":0}"#, 1000),
    ];
    for (request, expected) in cases {
        let mut socket = server.socket().await;
        socket.send(request).await;
        let run = socket.finish().await;
        assert_eq!(run.code(), expected, "{request}: {run:?}");
        if request.contains("nobody") {
            assert!(run.close.unwrap().1.contains("nobody"));
        }
    }
}

#[tokio::test]
async fn a_dead_worker_is_reported_at_once_and_restarted_when_used() {
    let server = start().await;
    let began = Instant::now();
    let run = server.run("import os\nlost = 1\nprint('last words')\nos.kill(os.getpid(), 9)").await;
    assert!(began.elapsed() < Duration::from_secs(45));
    assert_eq!((run.stdout.as_str(), run.code()), ("last words\n", 1001));
    assert!(run.errors[0]["value"].as_str().unwrap().contains("SIGKILL"), "{run:?}");
    let run = server.run("print('lost' in globals())\nimport os\nos._exit(3)").await;
    assert_eq!((run.stdout.as_str(), run.code()), ("False\n", 1001));
    assert!(run.close.unwrap().1.contains("code 3"));

    let (_, info) = server.call("POST", "/process/interpreter/context", "").await;
    let id = info["id"].as_str().unwrap();
    server.execute(&json!({"code":"import threading, os\nthreading.Timer(0.1, lambda: os._exit(1)).start()","contextId":id})).await;
    let began = Instant::now();
    while server.call("GET", "/process/interpreter/context", "").await.1["contexts"][0]["active"]
        == json!(true)
    {
        assert!(began.elapsed() < DEADLINE, "the idle worker's death was not noticed");
        tokio::task::yield_now().await;
    }
    let run = server.execute(&json!({"code":"print('again')","contextId":id})).await;
    assert_eq!(run.stdout, "again\n", "{run:?}");
}

#[tokio::test]
async fn forks_threads_and_late_output_do_not_confuse_the_protocol() {
    let server = start().await;
    let run = server.run("import os\npid = os.fork()\nprint('child' if pid == 0 else 'parent', flush=True)\nif pid: os.waitpid(pid, 0)").await;
    assert_eq!((run.code(), run.controls.len()), (1000, 1));
    assert!(run.stdout.contains("child\n") && run.stdout.contains("parent\n"));
    let directory = tempfile::tempdir().unwrap();
    let (go, done) = (directory.path().join("go"), directory.path().join("done"));
    let late = format!(
        "import threading, time, os\ndef late():\n    while not os.path.exists({go:?}): time.sleep(0.02)\n    print('late', flush=True)\n    open({done:?}, 'w').close()\nthreading.Thread(target=late).start()"
    );
    assert_eq!(server.run(&late).await.stdout, "");
    std::fs::write(&go, "").unwrap();
    eventually("the late output", || done.exists()).await;
    assert_eq!(server.run("print('next')").await.stdout, "next\n", "output between executions is nobody's");
    let run = server.run("import sys\nsys.stdout.close()\nsys.stdout = None").await;
    assert_eq!(run.code(), 1000);
    assert_eq!(server.run("print('fresh')").await.stdout, "fresh\n");
    // The worker's channel is not passed on to children.
    let run = server.run("import subprocess\nprint(subprocess.run('ls -l /proc/self/fd | grep -c socket', shell=True, capture_output=True, text=True).stdout)").await;
    assert_eq!(run.stdout.trim(), "0");
}

#[tokio::test]
async fn no_more_contexts_than_allowed() {
    let server = Server::start(pinfold_interpreter::router(processes(), 1)).await;
    let (status, context) = server.call("POST", "/process/interpreter/context", "{}").await;
    assert_eq!(status, 200, "{context}");
    let (status, body) = server.call("POST", "/process/interpreter/context", "{}").await;
    assert_eq!(status, 429, "{body}");
    assert!(body["message"].as_str().unwrap().contains("PINFOLD_MAX_INTERPRETER_CONTEXTS"), "{body}");
    // The default context is always there to be used.
    assert_eq!(server.run("print(1)").await.stdout, "1\n");
    let path = format!("/process/interpreter/context/{}", context["id"].as_str().unwrap());
    assert_eq!(server.call("DELETE", &path, "").await.0, 200);
    assert_eq!(server.call("POST", "/process/interpreter/context", "{}").await.0, 200);
}

#[tokio::test]
async fn nothing_runs_before_it_is_used() {
    let server = start().await;
    let children = || {
        std::fs::read_to_string(format!("/proc/self/task/{}/children", nix::unistd::gettid()))
            .unwrap_or_default()
    };
    assert_eq!(children(), "");
    let (_, list) = server.call("GET", "/process/interpreter/context", "").await;
    assert_eq!(list, json!({"contexts":[]}));
    let without = pinfold_interpreter::router(processes_on("/nowhere"), 8);
    let run = Server::start(without).await.run("1").await;
    assert_eq!(run.code(), 1011, "{run:?}");
}
