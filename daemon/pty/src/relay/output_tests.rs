use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { kept: 64, patience: Duration::from_secs(5) };

async fn read_all(reader: &mut Reader) -> (Vec<u8>, Next) {
    let mut all = Vec::new();
    loop {
        match reader.next().await {
            Next::Output(bytes) => all.extend_from_slice(&bytes),
            other => return (all, other),
        }
    }
}

#[tokio::test]
async fn the_first_client_gets_what_came_before_it_and_later_ones_do_not() {
    let log = OutputLog::new(LIMITS);
    log.append(b"prompt$ ").await;
    let mut first = log.reader(From::Unseen);
    assert_eq!(first.next().await, Next::Output("prompt$ ".into()));
    let mut second = log.reader(From::Unseen);
    let mut oldest = log.reader(From::Oldest);
    let mut resumed = log.reader(From::Offset(6));
    log.append(b"more").await;
    log.end(Exit::Code(3));
    assert_eq!(read_all(&mut first).await, (b"more".to_vec(), Next::End(Exit::Code(3))));
    assert_eq!(read_all(&mut second).await.0, b"more");
    assert_eq!(read_all(&mut oldest).await.0, b"prompt$ more");
    assert_eq!(read_all(&mut resumed).await.0, b"$ more");
}

#[tokio::test]
async fn a_returning_client_gets_what_nobody_has_confirmed() {
    let log = OutputLog::new(LIMITS);
    let mut first = log.reader(From::Unseen);
    log.append(b"seen ").await;
    first.next().await;
    first.receipts().confirm_all();
    log.append(b"lost ").await;
    first.next().await;
    drop(first);
    log.append(b"unseen").await;
    let mut back = log.reader(From::Unseen);
    assert_eq!(back.start(), 5);
    assert_eq!(back.next().await, Next::Output("lost unseen".into()));
}

#[tokio::test(start_paused = true)]
async fn who_owes_a_receipt_for_long_counts_for_nobody() {
    let log = OutputLog::new(LIMITS);
    let mut first = log.reader(From::Unseen);
    log.append(b"one").await;
    first.next().await;
    assert_eq!(log.reader(From::Unseen).start(), 3, "the first may well be alive");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(log.reader(From::Unseen).start(), 0, "by now nobody has confirmed anything");
    // A receipt for more than was given is one for what was given.
    first.receipts().confirm(100);
    log.append(b"two").await;
    assert_eq!(log.reader(From::Unseen).start(), 6);
    drop(first);
    assert_eq!(log.reader(From::Unseen).start(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_client_is_overrun_after_the_patience_and_the_other_loses_nothing() {
    let log = OutputLog::new(LIMITS);
    let stuck = log.reader(From::Unseen);
    let mut quick = log.reader(From::Unseen);
    let reading = tokio::spawn(async move { read_all(&mut quick).await });
    let before = Instant::now();
    for _ in 0..100 {
        log.append(&[b'x'; 10]).await;
    }
    assert_eq!(before.elapsed().as_secs(), 5, "the stuck client is waited for once");
    stuck.overrun().await;
    log.end(Exit::Code(0));
    assert_eq!(reading.await.unwrap(), (vec![b'x'; 1000], Next::End(Exit::Code(0))));
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_that_moves_is_waited_for() {
    let log = OutputLog::new(LIMITS);
    let mut slow = log.reader(From::Unseen);
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        loop {
            tokio::time::sleep(Duration::from_secs(4)).await;
            match slow.next().await {
                Next::Output(bytes) => all.extend_from_slice(&bytes),
                other => return (all, other),
            }
        }
    });
    for _ in 0..100 {
        log.append(&[b'x'; 10]).await;
    }
    log.end(Exit::Code(0));
    assert_eq!(reading.await.unwrap(), (vec![b'x'; 1000], Next::End(Exit::Code(0))));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_is_not_waited_for() {
    let log = OutputLog::new(LIMITS);
    let gone = log.reader(From::Unseen);
    let writing = tokio::spawn({
        let log = Arc::clone(&log);
        async move {
            let before = Instant::now();
            log.append(&[b'x'; 200]).await;
            before.elapsed()
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(gone);
    assert_eq!(writing.await.unwrap(), Duration::from_secs(1));
}

proptest! {
    #[test]
    fn the_ring_keeps_the_last_bytes(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..30), kept in 1usize..80) {
        let mut state = State::default();
        let mut all = Vec::new();
        for chunk in &chunks {
            state.push(chunk, kept);
            all.extend_from_slice(chunk);
            let tail = &all[all.len().saturating_sub(kept)..];
            prop_assert_eq!(state.end, all.len() as u64);
            prop_assert!(state.ring.iter().eq(tail));
            for from in state.start()..=state.end {
                let at = usize::try_from(from - state.start()).unwrap();
                prop_assert_eq!(&state.copy(from, 7)[..], &tail[at..tail.len().min(at + 7)]);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_is_abandoned_and_what_has_ended_is_let_go_at_once() {
    let limit = Duration::from_secs(3600);
    let log = OutputLog::new(LIMITS);
    let client = log.reader(From::Unseen);
    let waiting = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.abandoned(limit).await }
    });
    tokio::time::sleep(limit * 3).await;
    assert!(!waiting.is_finished(), "a client is attached");
    drop(client);
    log.append(b"x").await;
    let begin = Instant::now();
    assert!(waiting.await.unwrap());
    assert!(begin.elapsed() >= limit && begin.elapsed() <= limit * 2);

    let begin = Instant::now();
    let (ended, ()) = tokio::join!(log.abandoned(limit), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        log.end(Exit::Code(0));
    });
    assert!(!ended && begin.elapsed() < limit);
}
