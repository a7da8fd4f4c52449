//! The real thing: a container with limits of its own, seen from inside and from its host.
//!
//! ```sh
//! cargo test -p pinfold-cgroup --test nested -- --ignored
//! ```
//!
//! Needs a Docker engine, the musl target (`rustup target add x86_64-unknown-linux-musl`), and to run as root for the host's view.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pinfold_cgroup::{Group, Kernel};

const TARGET: &str = "x86_64-unknown-linux-musl";
const LIMITS: &[&str] = &["--memory=64m", "--cpus=0.5", "--pids-limit=50", "--network=none"];

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}{complaints}");
    text
}

/// An image of nothing but the example.
struct Image(String);

impl Image {
    fn build(name: &str) -> Self {
        run(
            env!("CARGO"),
            &["build", "-q", "-p", "pinfold-cgroup", "--example", "figures", "--target", TARGET],
        );
        // .../target/debug/deps/nested-… beside .../target/<TARGET>/debug/examples/figures
        let test = std::env::current_exe().expect("this test");
        let target: &Path = test.ancestors().nth(3).expect("the target directory");
        let examples: PathBuf = target.join(TARGET).join("debug/examples");
        let folder = tempfile::tempdir().expect("a directory");
        let tar = folder.path().join("image.tar");
        let (tar, examples) = (tar.to_str().expect("a path"), examples.to_str().expect("a path"));
        run("tar", &["-cf", tar, "-C", examples, "figures"]);
        let name = format!("pf-cgroup-{name}:{}", std::process::id());
        run("docker", &["import", tar, &name]);
        Self(name)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "-f", &self.0]).output();
    }
}

/// Removes the container, whatever became of it.
struct Container(String);

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", &self.0]).output();
    }
}

fn figures(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.rsplit_once(' ')).collect()
}

fn number(figures: &BTreeMap<&str, &str>, name: &str) -> f64 {
    let text = figures.get(name).unwrap_or_else(|| panic!("no {name}: {figures:?}"));
    text.parse().unwrap_or_else(|_| panic!("{name} is {text}: {figures:?}"))
}

#[test]
#[ignore = "needs a Docker engine and the musl target"]
fn a_limited_container_sees_its_limits() {
    let image = Image::build("inside");
    for namespace in ["--cgroupns=host", "--cgroupns=private"] {
        let name = format!("pf-cgroup-inside-{}", std::process::id());
        let mut arguments = vec!["run", "--rm", "--name", &name, namespace, "--cpuset-cpus=0"];
        arguments.extend(LIMITS);
        arguments.extend([image.0.as_str(), "/figures", "burn"]);
        let text = run("docker", &arguments);
        let figures = figures(&text);
        for scope in ["node", "container"] {
            let figure = |name: &str| number(&figures, &format!("{scope} {name}"));
            assert_eq!(
                (figure("cpus"), figure("cores"), figure("memory")),
                (1.0, 0.5, 67_108_864.0),
                "{namespace} {text}"
            );
            assert!((1.0..16_777_216.0).contains(&figure("used")), "{namespace} {text}");
            // All of half a processor, unless others want it too; of the whole machine it would be 25 at most.
            assert!((30.0..=100.0).contains(&figure("cpu")), "{namespace} {text}");
        }
        assert_eq!(number(&figures, "pids"), 50.0, "{text}");
        assert!(number(&figures, "disk") > 0.0 && number(&figures, "load") >= 0.0, "{text}");
    }
}

#[test]
#[ignore = "needs a Docker engine and the musl target"]
fn a_limited_container_is_seen_by_its_host() {
    let image = Image::build("outside");
    let name = format!("pf-cgroup-outside-{}", std::process::id());
    let mut arguments = vec!["run", "-d", "-i", "--name", &name];
    arguments.extend(LIMITS);
    arguments.extend([image.0.as_str(), "/figures", "wait"]);
    let id = run("docker", &arguments).trim().to_owned();
    let _container = Container(name.clone());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !run("docker", &["logs", &name]).contains("load ") {
        assert!(Instant::now() < deadline, "the container did not print its figures");
        std::thread::sleep(Duration::from_millis(50));
    }
    let kernel = Kernel::default();
    let pid = run("docker", &["inspect", "-f", "{{.State.Pid}}", &name]).trim().parse().expect("a pid");
    let by_process = kernel.group_of(pid).expect("the container's process");
    let by_id = kernel.container(&id, None).expect("mounts");
    for group in [&by_process, &by_id] {
        let shown = format!("{group:?}");
        let limit = |group: &Group| group.memory_limit().ok().flatten().map(|limit| limit.value);
        assert_eq!(limit(group), Some(64 << 20), "{shown}");
        assert_eq!(group.cpu_limit().expect("a quota").map(|limit| limit.value.get()), Some(0.5), "{shown}");
        assert_eq!(group.pids_limit().expect("pids").map(|limit| limit.value), Some(50), "{shown}");
        assert_eq!(group.pids(), Ok(1), "{shown}");
        assert_eq!(group.oom_kills(), Ok(0), "{shown}");
        assert!(group.cpu_usage().expect("usage") > Duration::ZERO, "{shown}");
        let used = group.memory().expect("memory").used;
        assert!((1..32 << 20).contains(&used), "{used} {shown}");
    }
    let _ = Command::new("docker").args(["kill", &name]).stdout(Stdio::null()).status();
}
