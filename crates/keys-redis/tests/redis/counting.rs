//! Counting while Redis is available.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn three_instances_at_ten_times_the_quota_accept_exactly_the_quota() {
    const QUOTA: u32 = 60;
    let redis = Redis::start();
    let mut instances = Vec::new();
    for _ in 0..3 {
        let limiter = patient(&redis).await;
        instances.push(tokio::spawn(async move {
            let mut accepted = 0;
            for _ in 0..QUOTA * 10 / 3 {
                // The next request would arrive after a minute.
                let decision = take(&limiter, "verify", quota(QUOTA, QUOTA * 60)).await;
                accepted += u32::from(decision.unwrap().allowed);
            }
            accepted
        }));
    }
    let mut accepted = 0;
    for instance in instances {
        accepted += instance.await.unwrap();
    }
    assert_eq!(accepted, QUOTA);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_sees_what_remains_and_takes_nothing() {
    let redis = Redis::start();
    let (one, other) = (patient(&redis).await, patient(&redis).await);
    // The next request would arrive after a minute.
    let quota = quota(10, 600);
    let rest = async |limiter: &Limiter| {
        let peeked = limiter.peek(&bucket("verify"), quota).await;
        peeked.unwrap().unwrap().remaining
    };
    assert_eq!(rest(&one).await, 10);
    for _ in 0..3 {
        assert!(take(&one, "verify", quota).await.unwrap().allowed);
    }
    for _ in 0..20 {
        assert_eq!((rest(&one).await, rest(&other).await), (7, 7));
    }
    assert_eq!(take(&other, "verify", quota).await.unwrap().remaining, 6);
}

/// An accepted request. Redis decided between its sending and its answer.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Accepted {
    sent: Duration,
    answered: Duration,
    remaining: u32,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_window_after_the_first_accepts_the_quota_and_never_two_more() {
    const PERIOD: Duration = Duration::from_secs(1);
    const QUOTA: u32 = 100;
    const PERIODS: u32 = 6;
    let redis = Redis::start();
    let start = Instant::now();
    let mut instances = Vec::new();
    for _ in 0..3 {
        let limiter = patient(&redis).await;
        instances.push(tokio::spawn(async move {
            let (mut accepted, mut refused): (Vec<Accepted>, Vec<_>) = Default::default();
            while start.elapsed() < PERIOD * PERIODS {
                let sent = start.elapsed();
                let decision = take(&limiter, "verify", quota(QUOTA, 1)).await.unwrap();
                if decision.allowed {
                    accepted.push(Accepted {
                        sent,
                        answered: start.elapsed(),
                        remaining: decision.remaining,
                    });
                } else {
                    refused.push((sent, start.elapsed()));
                }
                // Each sends some 300 a second, which is about ten times the quota together.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            (accepted, refused)
        }));
    }
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    for instance in instances {
        let (others_accepted, others_refused) = instance.await.unwrap();
        accepted.extend(others_accepted);
        refused.extend(others_refused);
    }
    let burst_ended = refused.iter().map(|&(_, answered)| answered).min().unwrap();
    let last_refused = refused.iter().map(|&(sent, _)| sent).max().unwrap();
    accepted.sort_unstable();

    // Within 1 % of the arrivals, in addition to the saved burst, from the first decision to the
    // last. At each refusal, all arrivals had been taken.
    let count = u32::try_from(accepted.len()).unwrap();
    let (first, last) = (&accepted[0], &accepted[accepted.len() - 1]);
    let arrived = |time: Duration| time.as_secs_f64() * f64::from(QUOTA);
    let at_most = f64::from(QUOTA) + arrived(last.answered.saturating_sub(first.sent));
    assert!(f64::from(count) <= at_most + 1.0, "{count} of {at_most}");
    let at_least = f64::from(QUOTA) + arrived(last_refused.saturating_sub(first.answered));
    assert!(
        f64::from(count) >= at_least * 0.99 - 1.0,
        "{count} of {at_least}"
    );

    // After the burst no window of one period has more than one above the quota. Requests that were
    // saved during a pause of this busy machine before the window do not count.
    let after_burst = accepted.partition_point(|other| other.sent < burst_ended);
    let after_burst = &accepted[after_burst..];
    for (index, opening) in after_burst.iter().enumerate() {
        let window = after_burst[index..]
            .iter()
            .filter(|other| other.answered <= opening.sent + PERIOD);
        let saved = after_burst[index..]
            .iter()
            .take_while(|other| other.sent <= opening.answered)
            .map(|other| other.remaining)
            .max()
            .unwrap_or_default();
        let count = u32::try_from(window.count()).unwrap();
        assert!(
            count <= QUOTA + 1 + saved,
            "{count} in the window from {:?}, {saved} were saved up",
            opening.sent
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_exact() {
    const INTERVAL: Duration = Duration::from_secs(1);
    let redis = Redis::start();
    let limiter = patient(&redis).await;
    let two_in_two_seconds = quota(2, 2);
    let take = async || take(&limiter, "list", two_in_two_seconds).await.unwrap();
    for remaining in [1, 0] {
        let decision = take().await;
        assert!(decision.allowed);
        assert_eq!(decision.remaining, remaining);
        assert_eq!(decision.retry_after, Duration::ZERO);
    }
    for _ in 0..3 {
        let refused = take().await;
        // If the machine is busy for a second, one request arrives.
        if refused.allowed {
            continue;
        }
        assert!(refused.retry_after <= INTERVAL);
        assert_eq!(refused.remaining, 0);
        assert_eq!(refused.reset, refused.retry_after + INTERVAL);
        tokio::time::sleep(refused.retry_after).await;
        let start = Instant::now();
        let decision = take().await;
        assert!(decision.allowed, "after the time it was told to wait");
        // The last one was taken exactly when it arrived, so the next one is not available yet.
        let refused = take().await;
        assert!(!refused.allowed || start.elapsed() >= INTERVAL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_quota_is_refused_and_takes_nothing() {
    let redis = Redis::start();
    let limiter = patient(&redis).await;
    let ten_an_hour = quota(10, 3_600);
    let eleven = 11.try_into().unwrap();
    let refused = limiter
        .take(&bucket("create"), ten_an_hour, eleven)
        .await
        .unwrap();
    assert!(!refused.allowed);
    assert_eq!(refused.remaining, 10);
    assert_eq!(refused.retry_after, Duration::from_hours(1));
    let ten = 10.try_into().unwrap();
    let decision = limiter.take(&bucket("create"), ten_an_hour, ten).await;
    let decision = decision.unwrap();
    assert!(decision.allowed);
    assert_eq!(decision.remaining, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_tell_whose_they_are_and_vanish_when_the_bucket_is_full() {
    let redis = Redis::start();
    let limiter = limiter_on(&redis)
        .key_prefix("staging".parse().unwrap())
        .budget(Duration::from_secs(10))
        .connect()
        .await;
    until(&limiter, LimiterState::Shared).await;
    take(&limiter, "list", quota(10, 3_600)).await.unwrap();
    take(&limiter, "delete", quota(10, 1)).await.unwrap();
    let key = "keys:staging:list:kAAAAAAAAAAAAAAAAAAAAAQ";
    let left = redis.command(&format!("PTTL {key}"));
    let left: u64 = left.strip_prefix(':').unwrap().parse().unwrap();
    // With ten an hour, one is available again after six minutes.
    assert!((300_000..=360_001).contains(&left), "{left}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(redis.command("DBSIZE"), ":1");
    assert_eq!(
        redis.command("EXISTS keys:staging:delete:kAAAAAAAAAAAAAAAAAAAAAQ"),
        ":0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn prefixes_keep_services_apart() {
    let redis = Redis::start();
    for prefix in ["staging", "production"] {
        let limiter = limiter_on(&redis)
            .key_prefix(prefix.parse().unwrap())
            .budget(Duration::from_secs(10))
            .connect()
            .await;
        until(&limiter, LimiterState::Shared).await;
        let take = async || take(&limiter, "list", quota(1, 3_600)).await.unwrap();
        assert!(take().await.allowed);
        assert!(!take().await.allowed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_buckets_are_full_and_a_forgotten_script_is_sent_again() {
    let redis = Redis::start();
    let limiter = patient(&redis).await;
    let one_an_hour = quota(1, 3_600);
    assert!(take(&limiter, "list", one_an_hour).await.unwrap().allowed);
    assert!(!take(&limiter, "list", one_an_hour).await.unwrap().allowed);
    assert_eq!(redis.command("FLUSHALL"), "+OK");
    assert!(take(&limiter, "list", one_an_hour).await.unwrap().allowed);
    assert_eq!(redis.command("SCRIPT FLUSH"), "+OK");
    assert!(!take(&limiter, "list", one_an_hour).await.unwrap().allowed);
    assert_eq!(limiter.undecided_total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_connection_costs_no_decision() {
    let redis = Redis::start();
    let limiter = patient(&redis).await;
    for _ in 0..20 {
        redis.command("CLIENT KILL TYPE normal");
        take(&limiter, "list", quota(1_000, 1)).await.unwrap();
    }
    assert_eq!(limiter.undecided_total(), 0);
}

/// A request may enter the client's queue just as the client gives the queue up. That is rare: the
/// calls of this test meet it about once in ten runs of it without the check for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_waits_for_a_connection_that_was_closed() {
    const KILLS: usize = 100;
    const CALLERS: usize = 8;
    let redis = Redis::start();
    let limiter = Arc::new(patient(&redis).await);
    let (over, is_over) = tokio::sync::watch::channel(false);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (limiter, is_over) = (Arc::clone(&limiter), is_over.clone());
        callers.spawn(async move {
            while !*is_over.borrow() {
                match take(&limiter, "list", quota(1_000, 1)).await {
                    Ok(_) => {}
                    Err(error @ LimiterError::Late(_)) => panic!("{error:?}"),
                    // Closed twice during one call.
                    Err(_) => until(&limiter, LimiterState::Shared).await,
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(10)).await;
        tokio::task::block_in_place(|| redis.command("CLIENT KILL TYPE normal"));
    }
    over.send_replace(true);
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
}

#[test]
fn connection_outlives_the_runtimes_that_use_it() {
    let redis = Redis::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let limiter = runtime.block_on(patient(&redis));
    let before = redis.command("CLIENT ID");
    for _ in 0..3 {
        // Like a worker of the server: one thread, which ends with it.
        let worker = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        for _ in 0..3 {
            let decision = worker.block_on(take(&limiter, "list", quota(1_000, 1)));
            assert!(decision.unwrap().allowed);
        }
    }
    let id = |answer: String| -> u64 { answer.strip_prefix(':').unwrap().parse().unwrap() };
    let connections = id(redis.command("CLIENT ID")) - id(before) - 1;
    assert_eq!(connections, 0, "the first one was used throughout");
    drop(runtime);
    let after = tokio::runtime::Runtime::new().unwrap();
    let error = after.block_on(take(&limiter, "list", quota(1_000, 1)));
    assert!(error.is_err(), "its own runtime is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn user_with_the_documented_rights_is_enough() {
    let redis = Redis::start();
    let rights = "~keys:* +evalsha +script|load +time +get +set";
    redis.command(&format!("ACL SETUSER limiter on >hunter2 {rights}"));
    let url = format!("redis://limiter:hunter2@127.0.0.1:{}", redis.port());
    let limiter = Builder::new(&url)
        .budget(Duration::from_secs(10))
        .connect()
        .await;
    until(&limiter, LimiterState::Shared).await;
    take(&limiter, "list", quota(10, 60)).await.unwrap();
    assert_eq!(limiter.undecided_total(), 0);
    let memory = redis.command("MEMORY USAGE keys:default:list:kAAAAAAAAAAAAAAAAAAAAAQ");
    let bytes: u32 = memory.strip_prefix(':').unwrap().parse().unwrap();
    assert!((80..=160).contains(&bytes), "{bytes} bytes a bucket");
}
