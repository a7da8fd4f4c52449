use super::*;

const VOLUME: &str = "b8c3a1d0-2f0e-4a56-8a44-6b3f1d2e9c70";

/// What a stand-in for mount-s3, which takes what is documented and nothing else, got from us: arguments and environment.
async fn told(endpoint: Option<&str>) -> (Vec<String>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("mount-s3");
    std::fs::write(&program, include_str!("mount-s3.sh")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let credentials = S3Credentials {
        endpoint: endpoint.map(str::to_owned),
        region: Some("eu-west-1".to_owned()),
        access_key: Secret::new("access"),
        secret_key: Secret::new("secret"),
    };
    let mut volumes = S3Volumes::new(dir.path(), credentials, Duration::ZERO);
    let system = std::env::split_paths(&volumes.search_path).collect::<Vec<_>>();
    volumes.search_path = std::env::join_paths(std::iter::once(dir.path().to_owned()).chain(system)).unwrap();
    assert_eq!(volumes.find_client(), Some(Client::MountS3), "it is preferred to s3fs");
    let path = volumes.path_of(&VOLUME.parse().unwrap());
    std::fs::create_dir(&path).unwrap();
    let mut command = Command::new(&program);
    volumes.configure(&mut command, Client::MountS3, &format!("{PREFIX}{VOLUME}"), &path, None);
    // What was just written is still open for writing in a child that another test is about to start.
    let busy = |result: &std::io::Result<_>| {
        result.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ExecutableFileBusy)
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut output = command.output().await;
    while busy(&output) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
        output = command.output().await;
    }
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = |kind: &str| {
        let text = std::fs::read_to_string(dir.path().join(format!("mount-s3.{kind}"))).unwrap();
        text.lines().map(|line| line.replace(path.to_str().unwrap(), "<path>")).collect::<Vec<_>>()
    };
    (lines("arguments"), lines("environment"))
}

/// The contract's section 8.2: the command line, and an environment of these names alone.
#[tokio::test]
async fn mount_s3_is_called_as_it_documents_itself() {
    let bucket = format!("{PREFIX}{VOLUME}");
    let common =
        ["--allow-other", "--allow-delete", "--allow-overwrite", "--file-mode", "0666", "--dir-mode", "0777"];
    let (arguments, environment) = told(Some("https://s3.eu-west-1.amazonaws.com")).await;
    assert_eq!(arguments, [&common[..], &[&bucket, "<path>"]].concat());
    for expected in [
        "AWS_ENDPOINT_URL=https://s3.eu-west-1.amazonaws.com",
        "AWS_REGION=eu-west-1",
        "AWS_ACCESS_KEY_ID=access",
        "AWS_SECRET_ACCESS_KEY=secret",
    ] {
        assert!(environment.iter().any(|line| line == expected), "{expected}: {environment:?}");
    }
    // The shell of the stand-in adds what is its own.
    let shells = ["PATH", "PWD", "OLDPWD", "SHLVL", "_"];
    let others = environment.iter().filter(|line| {
        let name = line.split('=').next().unwrap();
        !name.starts_with("AWS_") && !shells.contains(&name)
    });
    assert_eq!(others.count(), 0, "{environment:?}");
    assert!(!told(None).await.1.iter().any(|line| line.starts_with("AWS_ENDPOINT_URL")));
}

/// Other stores have no host name for each bucket, and mount-s3 asks for one unless its endpoint is an address.
#[tokio::test]
async fn a_store_that_is_not_amazons_is_asked_by_path() {
    for (endpoint, by_path) in [
        (Some("http://minio:9000"), true),
        (Some("https://store.example.com/"), true),
        (Some("https://amazonaws.com.example.com"), true),
        (Some("https://s3.cn-north-1.amazonaws.com.cn"), false),
        (None, false),
    ] {
        let (arguments, _) = told(endpoint).await;
        assert_eq!(arguments.iter().any(|a| a == "--force-path-style"), by_path, "{endpoint:?}");
    }
}

/// The contract's section 8.2 and 1.5: what is in use, was asked for or is young stays, and a dry run says what would not.
#[tokio::test]
async fn only_what_nobody_wants_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let exclusion = Duration::from_secs(120);
    let volumes = S3Volumes::new(dir.path(), S3Credentials::default(), exclusion);
    let [used, asked, young, unused]: [VolumeId; 4] = std::array::from_fn(|_| VolumeId::random());
    for volume in [&used, &asked, &young, &unused] {
        std::fs::create_dir(volumes.path_of(volume)).unwrap();
        if *volume != young {
            let long_ago = SystemTime::now() - exclusion * 2;
            std::fs::File::open(volumes.path_of(volume)).unwrap().set_modified(long_ago).unwrap();
        }
    }
    std::fs::create_dir(dir.path().join("somebody-elses")).unwrap();
    volumes.note_asked_for(&asked);
    let in_use = |volume: &VolumeId| *volume == used;
    assert_eq!(volumes.unused(&in_use).unwrap(), std::slice::from_ref(&unused));
    assert!(volumes.path_of(&unused).exists(), "looking removes nothing");
    assert_eq!(volumes.cleanup(&in_use).await.unwrap(), std::slice::from_ref(&unused));
    assert!(!volumes.path_of(&unused).exists() && volumes.path_of(&young).exists());
    assert!(volumes.path_of(&used).exists() && dir.path().join("somebody-elses").exists());
    // What is mounted is not asked for its time: a client that hangs would never answer.
    let mounted = format!("36 35 0:9 / {} rw - fuse x rw\n", volumes.path_of(&young).display());
    assert!(volumes.is_young(&young, "") && !volumes.is_young(&young, &mounted));
}
