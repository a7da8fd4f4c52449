//! Measures uploads, downloads and `find` against what the machine can do without us; `cargo run --release -p pinfold-files --example throughput
//! -- <directory> [find]`. The baseline copies the same bytes between the same files through a bare TCP connection over loopback.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use pinfold_spawn::{Environment, Sandbox, Spawner};

const SIZE: usize = 1 << 30;
const CHUNK: usize = 256 << 10;

/// The server, in a runtime of its own.
fn serve(directory: &Path) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let directory = directory.to_owned();
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async move {
            let sandbox = Sandbox {
                spawner: Spawner::start().unwrap(),
                environment: Environment::inherited(&[]),
                work_dir: directory.clone().into(),
                home: directory.into(),
            };
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let router = pinfold_files::router(sandbox);
            let _ = pinfold_http::serve(listener, router, std::future::pending(), Duration::ZERO).await;
        });
    });
    receiver.recv().unwrap()
}

/// Resident memory in KiB: now, or its peak since [`reset_peak`].
fn memory(field: &str) -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find(|l| l.starts_with(field)).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Seconds of processor time this process has used, client and server together: a figure that other load hardly changes.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap().split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    // Clock ticks, of which Linux reports a hundred a second whatever its own clock does.
    (fields[11] + fields[12]) / 100.0
}

fn measure(name: &str, work: impl FnOnce()) -> f64 {
    reset_peak();
    let before = memory("VmRSS:");
    let (began, used) = (Instant::now(), processor());
    work();
    let (seconds, used) = (began.elapsed().as_secs_f64(), processor() - used);
    let grown = memory("VmHWM:") - before;
    println!(
        "{name:28} {seconds:6.3} s  {:7.0} MiB/s  {used:5.2} s of processor  peak +{grown} KiB",
        SIZE as f64 / seconds / 1048576.0
    );
    seconds
}

fn copy(from: &mut impl Read, to: &mut impl Write, length: usize) {
    let mut buffer = vec![0; CHUNK];
    let mut left = length;
    while left > 0 {
        let wanted = left.min(CHUNK);
        let read = from.read(&mut buffer[..wanted]).unwrap();
        assert!(read > 0, "ended {left} bytes early");
        to.write_all(&buffer[..read]).unwrap();
        left -= read;
    }
}

fn baseline_download(source: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| copy(&mut File::open(source).unwrap(), &mut listener.accept().unwrap().0, SIZE));
        copy(&mut TcpStream::connect(address).unwrap(), &mut std::io::sink(), SIZE);
    });
}

fn baseline_upload(target: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| copy(&mut listener.accept().unwrap().0, &mut File::create(target).unwrap(), SIZE));
        copy(&mut std::io::repeat(7), &mut TcpStream::connect(address).unwrap(), SIZE);
    });
}

fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn download(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /files/download?path=source HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 200"));
    copy(&mut stream, &mut std::io::sink(), SIZE);
}

fn bulk_download(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = "POST /files/bulk-download HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 20\r\n\r\n{\"paths\":[\"source\"]}";
    stream.write_all(request.as_bytes()).unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 200"));
    let mut buffer = vec![0; CHUNK];
    let mut received = 0;
    while let n @ 1.. = stream.read(&mut buffer).unwrap() {
        received += n;
    }
    assert!(received > SIZE);
}

fn upload(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    let before = "--b\r\nContent-Disposition: form-data; name=\"files[0].path\"\r\n\r\ntarget\r\n--b\r\nContent-Disposition: form-data; name=\"files[0].file\"; filename=\"x\"\r\n\r\n";
    let after = "\r\n--b--\r\n";
    let length = before.len() + SIZE + after.len();
    write!(stream, "POST /files/bulk-upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n{before}").unwrap();
    copy(&mut std::io::repeat(7), &mut stream, SIZE);
    stream.write_all(after.as_bytes()).unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 200"));
}

fn find(address: SocketAddr, pattern: &str) -> usize {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /files/find?path=tree&pattern={pattern} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer.len()
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = std::path::PathBuf::from(arguments.next().unwrap());
    let address = serve(&directory);
    if let Some(pattern) = arguments.next() {
        for _ in 0..5 {
            let began = Instant::now();
            let bytes = find(address, &pattern);
            println!("find {pattern}: {:?}, {bytes} bytes, peak {} KiB", began.elapsed(), memory("VmHWM:"));
        }
        return;
    }
    let (source, target) = (directory.join("source"), directory.join("target"));
    copy(&mut std::io::repeat(7), &mut File::create(&source).unwrap(), SIZE);
    for round in 0..3 {
        println!("round {round}");
        let _ = std::fs::remove_file(&target);
        let base = measure("TCP copy from a file", || baseline_download(&source));
        let ours = measure("GET /files/download", || download(address));
        let bulk = measure("POST /files/bulk-download", || bulk_download(address));
        println!(
            "download {:.0} %, bulk-download {:.0} % of the baseline",
            100.0 * base / ours,
            100.0 * base / bulk
        );
        let base = measure("TCP copy to a file", || baseline_upload(&target));
        std::fs::remove_file(&target).unwrap();
        let ours = measure("POST /files/bulk-upload", || upload(address));
        println!("bulk-upload {:.0} % of the baseline", 100.0 * base / ours);
        std::fs::remove_file(&target).unwrap();
    }
}
