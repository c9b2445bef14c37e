//! One server under load: a client that has read the answer to a revocation never sees the key
//! accepted again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keys_testkit::postgres::Database;
use keys_testkit::report::{figure, information, is_full};
use keys_testkit::wire::Wire;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::customers::{self, Key};
use crate::fleet::server;
use crate::{Times, end_the_line, millis, now};

/// Minimum verifications a second in full.
const RATE_MIN: usize = 10_000;

/// Keys at a time, and connections that verify each.
const LANES: usize = 6;
const ASKING: usize = 2;

/// Returns the number of requests that a connection sends in one write.
fn at_once() -> usize {
    if is_full() { 8 } else { 4 }
}

/// Writes of each connection after the answer.
const AFTERWARDS: usize = 2;

#[derive(Debug, Default)]
struct Seen {
    /// Accepted requests that were sent before the revocation's answer had been read.
    accepted_before: usize,
    refused_before: usize,
    /// Accepted requests that were sent after it.
    accepted_after: usize,
    refused_after: usize,
    /// Requests that a busy machine answered 503.
    unavailable: usize,
    took: Times,
}

/// Verifies a key until some time after it has been revoked.
async fn ask(
    wire: &mut Wire,
    questions: &[u8],
    answered: watch::Receiver<Option<Duration>>,
    known: &AtomicUsize,
    answers: &AtomicUsize,
) -> Seen {
    let mut seen = Seen::default();
    let (mut is_known, mut afterwards) = (false, 0);
    while afterwards < AFTERWARDS {
        let sent = now();
        // Read after the time stamp. Otherwise the request could be sent later than its stamp says.
        let is_after = answered.borrow().is_some_and(|at| sent >= at);
        wire.send(questions).await;
        for _ in 0..at_once() {
            let answer = wire.answer().await;
            *match (answer.status, answer.header("x-denial"), is_after) {
                (200, None, false) => &mut seen.accepted_before,
                (200, None, true) => &mut seen.accepted_after,
                (401, Some("revoked"), false) => &mut seen.refused_before,
                (401, Some("revoked"), true) => &mut seen.refused_after,
                (503, None, _) => &mut seen.unavailable,
                (status, denial, _) => panic!("{status} {denial:?}: {}", answer.body),
            } += 1;
        }
        answers.fetch_add(at_once(), Ordering::Relaxed);
        if is_after && seen.accepted_after + seen.refused_after > 0 {
            afterwards += 1;
        }
        if !is_known && seen.accepted_before > 0 {
            is_known = true;
            known.fetch_add(1, Ordering::Relaxed);
        }
    }
    seen
}

/// Revokes a key that both connections verify all the time.
async fn revoke(
    key: &Key,
    asking: &mut [Wire; ASKING],
    revoking: &mut Wire,
    answers: &AtomicUsize,
) -> Seen {
    let questions = key.auth().repeat(at_once());
    let (known, answered) = (AtomicUsize::new(0), watch::Sender::new(None));
    let request = key.revoke("");
    let revoke = async {
        while known.load(Ordering::Relaxed) < ASKING {
            tokio::task::yield_now().await;
        }
        let (sent, at) = loop {
            let sent = now();
            let answer = revoking.ask(&request).await;
            let at = now();
            match answer.status {
                200 | 204 => break (sent, at),
                // The machine is too busy, which this test does not measure.
                503 => tokio::time::sleep(millis(50)).await,
                status => panic!("{status}: {}", answer.body),
            }
        };
        answered.send_replace(Some(at));
        at.saturating_sub(sent)
    };
    let [one, two] = asking;
    let (took, mut one, two) = tokio::join!(
        revoke,
        ask(one, &questions, answered.subscribe(), &known, answers),
        ask(two, &questions, answered.subscribe(), &known, answers)
    );
    one.add(two);
    one.took.0.push(took);
    // A key that was never accepted, or never verified again, would show nothing.
    assert!(one.accepted_before > 0 && one.refused_after + one.accepted_after > 0);
    one
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.accepted_before += other.accepted_before;
        self.refused_before += other.refused_before;
        self.accepted_after += other.accepted_after;
        self.refused_after += other.refused_after;
        self.unavailable += other.unavailable;
        self.took.0.extend(other.took.0);
    }
}

/// Counts the answers in each whole second, for ever.
async fn count_by_seconds(answers: Arc<AtomicUsize>, seconds: Arc<Mutex<Vec<usize>>>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    let mut before = answers.load(Ordering::Relaxed);
    loop {
        ticks.tick().await;
        let so_far = answers.load(Ordering::Relaxed);
        seconds.lock().unwrap().push(so_far - before);
        before = so_far;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_key_is_refused_from_its_answer_on_by_whoever_revoked_it() {
    let revokes = if is_full() { 10_000 } else { 200 };
    let database = Database::create().await;
    let server = server(&database.url()).start().await;
    let (url, operator) = (server.url(""), server.operator_key("proof"));
    let keys = customers::keys(&url, &operator, revokes).await;
    let keys = Arc::new(Mutex::new(keys));
    let (answers, seconds) = (Arc::new(AtomicUsize::new(0)), Arc::default());
    let mut counting = JoinSet::new();
    counting.spawn(count_by_seconds(Arc::clone(&answers), Arc::clone(&seconds)));
    let start = now();
    let mut lanes = JoinSet::new();
    for _ in 0..LANES {
        let (keys, answers, url) = (Arc::clone(&keys), Arc::clone(&answers), url.clone());
        lanes.spawn(async move {
            let mut asking = [Wire::connect(&url).await, Wire::connect(&url).await];
            let mut revoking = Wire::connect(&url).await;
            let mut seen = Seen::default();
            loop {
                let key = keys.lock().unwrap().pop();
                let Some(key) = key else { return seen };
                seen.add(revoke(&key, &mut asking, &mut revoking, &answers).await);
            }
        });
    }
    let mut seen = Seen::default();
    for lane in lanes.join_all().await {
        seen.add(lane);
    }
    let took = now().saturating_sub(start);
    counting.shutdown().await;
    end_the_line();

    let all = answers.load(Ordering::Relaxed);
    let rate = all * 1_000 / usize::try_from(took.max(millis(1)).as_millis()).unwrap();
    let slowest = seconds
        .lock()
        .unwrap()
        .iter()
        .min()
        .copied()
        .unwrap_or(rate);
    information("same server: revocations", seen.took.0.len());
    information(
        "same server: revocation answered after",
        seen.took.summary(),
    );
    information("same server: verifications", all);
    information(
        "same server: accepted before the answer",
        seen.accepted_before,
    );
    information(
        "same server: refused before the answer was read",
        seen.refused_before,
    );
    information("same server: refused after the answer", seen.refused_after);
    information("same server: not answered (503)", seen.unavailable);
    figure(
        "same server: verifications a second",
        format_args!("{rate}, {slowest} in the slowest second"),
        "at least 10000",
        slowest >= RATE_MIN,
    );
    figure(
        "same server: acceptances after the answer",
        seen.accepted_after,
        "none",
        seen.accepted_after == 0,
    );
    assert_eq!(seen.accepted_after, 0);
    assert_eq!(seen.took.0.len(), revokes);
    assert!(rate >= RATE_MIN || !is_full(), "{rate}");
}
