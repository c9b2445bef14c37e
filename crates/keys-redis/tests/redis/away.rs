//! Behavior while Redis is unavailable, and when it returns.

use super::*;

/// A call waits 20 ms at most, but a busy machine may schedule it later.
const BUDGET_ON_A_BUSY_MACHINE: Duration = Duration::from_millis(200);

/// Long enough for several trials, which run every 250 ms.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn killed_redis_is_done_without_and_used_again_when_it_is_back() {
    let mut redis = Redis::start();
    let limiter = limiter_on(&redis).connect().await;
    until(&limiter, LimiterState::Shared).await;
    for round in 0..3 {
        redis.kill();
        for took in take_until(&limiter, LimiterState::Local).await {
            assert!(took < BUDGET_ON_A_BUSY_MACHINE, "{took:?}");
        }
        // The cost is not 0, because the local limiter counts it too.
        let limit = format!("round-{round}");
        let take = async || take(&limiter, &limit, quota(1, 3_600)).await.unwrap();
        assert!(take().await.allowed);
        assert!(!take().await.allowed);
        redis.bring_up();
        let back = Instant::now();
        until(&limiter, LimiterState::Shared).await;
        assert!(back.elapsed() < SOON, "{:?}", back.elapsed());
    }
    assert!(limiter.undecided_total() >= 6);
}

/// Number of measurements that have to be too slow before the test fails.
const ATTEMPTS: u32 = 3;

/// Several trials fall into this time.
async fn p99_of_two_seconds(limiter: &Limiter) -> Duration {
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        let start = Instant::now();
        take(limiter, "any", quota(10, 60)).await.unwrap();
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn half_dead_redis_holds_nobody_up_once_it_is_known() {
    let redis = Redis::start();
    let limiter = limiter_on(&redis).connect().await;
    until(&limiter, LimiterState::Shared).await;
    redis.pause();
    let waited = take_until(&limiter, LimiterState::Local).await;
    assert!(waited.len() <= 3, "three in a row: {waited:?}");

    // A machine that is busy with other work may need another attempt.
    for attempt in 1..=ATTEMPTS {
        let p99 = p99_of_two_seconds(&limiter).await;
        if p99 < Duration::from_millis(5) {
            break;
        }
        assert!(attempt < ATTEMPTS, "{p99:?}");
    }
    assert_eq!(limiter.state(), LimiterState::Local);

    redis.resume();
    let back = Instant::now();
    until(&limiter, LimiterState::Shared).await;
    assert!(back.elapsed() < SOON, "{:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_of_redis_makes_no_bucket_full() {
    let mut redis = Redis::start();
    let limiter = limiter_on(&redis)
        .budget(Duration::from_secs(10))
        .connect()
        .await;
    until(&limiter, LimiterState::Shared).await;
    let three_an_hour = quota(3, 3_600);
    for remaining in [2, 1] {
        let decision = take(&limiter, "list", three_an_hour).await.unwrap();
        assert_eq!(decision.remaining, remaining);
    }
    redis.kill();
    let decision = take(&limiter, "list", three_an_hour).await.unwrap();
    assert!(decision.allowed);
    assert_eq!(decision.remaining, 0);
    assert!(!take(&limiter, "list", three_an_hour).await.unwrap().allowed);
    assert_eq!(limiter.undecided_total(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_redis_is_not_taken_for_one_that_has_something_left() {
    let redis = Redis::start();
    let limiter = limiter_on(&redis)
        .budget(Duration::from_millis(500))
        .connect()
        .await;
    until(&limiter, LimiterState::Shared).await;
    let ten_an_hour = quota(10, 3_600);
    for (limit, taken) in [("nearly-empty", 9), ("half-full", 5)] {
        for _ in 0..taken {
            assert!(take(&limiter, limit, ten_an_hour).await.unwrap().allowed);
        }
    }
    // Two may be late by accident. The third in a row counts as unavailable.
    redis.pause();
    let nearly_empty = take(&limiter, "nearly-empty", ten_an_hour).await.unwrap();
    assert!(!nearly_empty.allowed);
    assert_eq!(nearly_empty.remaining, 1);
    let wait = nearly_empty.retry_after;
    assert!(
        wait > Duration::from_mins(5) && wait <= Duration::from_mins(6),
        "{wait:?}"
    );
    let half_full = take(&limiter, "half-full", ten_an_hour).await.unwrap();
    assert!(half_full.allowed);
    assert_eq!(limiter.state(), LimiterState::Shared);
    // Many late calls at once get no more through than one, although they are enough to count as
    // unavailable.
    let together = (0..50).map(|_| take(&limiter, "nearly-empty", ten_an_hour));
    for decision in futures_util::future::join_all(together).await {
        assert!(!decision.unwrap().allowed);
    }
    assert_eq!(limiter.state(), LimiterState::Local);
    let decision = take(&limiter, "nearly-empty", ten_an_hour).await.unwrap();
    assert!(decision.allowed);
    redis.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_is_away_at_the_start_is_found_later() {
    let mut redis = Redis::stopped();
    let start = Instant::now();
    let limiter = limiter_on(&redis).connect().await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(limiter.state(), LimiterState::Local);
    take(&limiter, "list", quota(1, 1)).await.unwrap();
    redis.bring_up();
    until(&limiter, LimiterState::Shared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_is_half_dead_at_the_start_holds_it_up_half_a_second() {
    let redis = Redis::start();
    redis.pause();
    let start = Instant::now();
    let limiter = limiter_on(&redis).connect().await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(limiter.state(), LimiterState::Local);
    redis.resume();
    until(&limiter, LimiterState::Shared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_decided_without_redis_where_that_is_wanted() {
    let mut redis = Redis::start();
    let limiter = limiter_on(&redis)
        .on_unavailable(OnUnavailable::Deny)
        .connect()
        .await;
    until(&limiter, LimiterState::Shared).await;
    redis.kill();
    take_until(&limiter, LimiterState::Denying).await;
    let error = take(&limiter, "list", quota(1, 1)).await.unwrap_err();
    assert_eq!(error.to_string(), "the rate limiter is not available");
    redis.bring_up();
    until(&limiter, LimiterState::Shared).await;
    assert!(take(&limiter, "list", quota(1, 1)).await.unwrap().allowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_redis_is_as_good_as_none() {
    let redis = Redis::start();
    let limiter = limiter_on(&redis).connect().await;
    until(&limiter, LimiterState::Shared).await;
    assert_eq!(redis.command("CONFIG SET maxmemory 1"), "+OK");
    take_until(&limiter, LimiterState::Local).await;
    // A trial that only pings would succeed.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(limiter.state(), LimiterState::Local);
    assert_eq!(redis.command("CONFIG SET maxmemory 0"), "+OK");
    until(&limiter, LimiterState::Shared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn password_is_needed_never_shown_and_may_become_right_later() {
    let redis = Redis::start_with(&["--requirepass", "correct-horse"]);
    let with = |password: &str| {
        let url = format!("redis://:{password}@127.0.0.1:{}", redis.port());
        Builder::new(&url)
    };
    let right = with("correct-horse").connect().await;
    until(&right, LimiterState::Shared).await;

    let wrong = with("hunter2").on_unavailable(OnUnavailable::Deny);
    let wrong = wrong.connect().await;
    assert_eq!(wrong.state(), LimiterState::Denying);
    let error = take(&wrong, "list", quota(1, 1)).await.unwrap_err();
    assert!(!format!("{wrong:?} {error:?}").contains("hunter2"));

    // Two lines on one connection.
    redis.command("AUTH correct-horse\r\nCONFIG SET requirepass hunter2");
    until(&wrong, LimiterState::Shared).await;
}
