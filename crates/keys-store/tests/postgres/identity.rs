//! The identity of the log of changes, and the conditions that the log depends on.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keys_core::{ApiKey, Denial, Revocation};
use keys_service::ports::{
    ChangeError, ChangeFeed, ChangeLog as _, Changed, Changes, Commit, Keys as _, Maintenance as _,
    POLL_INTERVAL, SILENCE_MAX, StoreError,
};
use keys_service::{Actor, KeyService, VerdictCode, VerifyRequest};
use keys_store::{Store, StoreOptions};
use keys_testkit::contract::{followed, is_seen_soon, news};
use keys_testkit::data::{NOON, a_change, a_key, pepper_ring};
use keys_testkit::fault_proxy::{Fault, FaultProxy};
use keys_testkit::postgres::{Cluster, Database};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::common::{Sql as _, add_account, add_key, chain};
use crate::{by_hand, open};

const DATABASE: &str = "keys";

const KILL: &str = "select pg_terminate_backend(pid) from pg_stat_activity \
                    where datname = current_database() and pid <> pg_backend_pid()";

const KILL_LISTENERS: &str = "select pg_terminate_backend(pid) from pg_stat_activity \
                              where datname = current_database() and application_name = 'keys feed'";

const KILL_POOLED: &str = "select pg_terminate_backend(pid) from pg_stat_activity \
                           where application_name = 'keys'";

async fn open_at(url: &str) -> Store {
    Store::open(&url.parse().unwrap()).await.unwrap()
}

async fn revoked(store: &Store) -> (ApiKey, Commit) {
    let key = add_key(store, a_key().build_new()).await;
    let commit = store
        .revoke_key(None, key.id, Revocation::default(), a_change().build())
        .await;
    (key, commit.unwrap().unwrap())
}

/// Returns the changes that the feed finds once it is connected again.
async fn after_reconnection(feed: &mut dyn ChangeFeed) -> Changes {
    let begin = Instant::now();
    loop {
        if let Ok(changes) = feed.poll().await {
            return changes;
        }
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}

/// A dump contains reports and epochs whose numbers belong to the old cluster. Those of the new one
/// are smaller by then.
#[tokio::test(flavor = "multi_thread")]
async fn move_to_another_cluster_is_a_reset_and_its_waits_are_not_answered_by_old_reports() {
    let [old, new] = [(); 2].map(|()| Cluster::start().unwrap());
    old.sql("postgres", "create database keys template template0");
    old.sql(
        "postgres",
        "do $$ begin for i in 1..3000 loop perform pg_current_xact_id(); commit; end loop; end $$",
    );
    let (proxy, url) = FaultProxy::in_front_of(&old.database_url(DATABASE)).await;
    let store = open_at(&url).await;
    let (_, before) = revoked(&store).await;
    let mut feed = followed(&store).await;
    assert!(is_seen_soon(&store, before, &mut [&mut feed]).await);

    old.dump_into(&new, DATABASE);
    proxy.lead_to(&new.address());
    old.sql(DATABASE, KILL);
    let other = open_at(&new.database_url(DATABASE)).await;
    let (_, commit) = revoked(&other).await;
    let mut others_feed = followed(&other).await;
    let (_, later) = revoked(&other).await;
    news(&mut *others_feed).await;
    for one in [before, commit, later] {
        assert!(!is_seen_soon(&other, one, &mut [&mut others_feed]).await);
    }

    let changes = after_reconnection(&mut *feed).await;
    assert!(changes.reset && !changes.took_over);
    feed.applied().await;
    let (key, _) = revoked(&other).await;
    assert_eq!(
        news(&mut *feed).await,
        HashSet::from([Changed::Key(key.id)])
    );
    // This cluster does not know the transaction of the old one, whatever its number.
    assert!(
        !store
            .is_seen_everywhere(&before, SILENCE_MAX)
            .await
            .unwrap()
    );
}

/// A restored volume keeps the identifier and the timeline of the cluster. Its server has been
/// restarted.
#[tokio::test(flavor = "multi_thread")]
async fn server_that_was_started_anew_is_a_reset() {
    let mut cluster = Cluster::start().unwrap();
    let url = cluster.database_url("postgres");
    let store = open_at(&url).await;
    let mut feed = followed(&store).await;
    let (_, before) = revoked(&store).await;
    news(&mut *feed).await;
    let started = "select log from instance";
    let log = cluster.sql("postgres", started);
    cluster.crash();
    cluster.start_again();
    let changes = after_reconnection(&mut *feed).await;
    assert!(changes.reset && !changes.took_over);
    feed.applied().await;
    assert_ne!(cluster.sql("postgres", started), log);
    assert!(
        !store
            .is_seen_everywhere(&before, SILENCE_MAX)
            .await
            .unwrap()
    );
}

/// After a promotion the old primary is refused, by the feed and by the pool.
#[tokio::test(flavor = "multi_thread")]
async fn server_on_an_earlier_timeline_is_refused() {
    let primary = Cluster::start().unwrap();
    let (proxy, url) = FaultProxy::in_front_of(&primary.database_url("postgres")).await;
    let store = open_at(&url).await;
    let (_, before) = revoked(&store).await;
    let mut feed = followed(&store).await;
    let standby = primary.standby().unwrap();
    assert!(!feed.is_replicated_asynchronously());
    standby.detach();
    standby.promote();
    proxy.lead_to(&standby.address());
    primary.sql("postgres", KILL);
    let changes = after_reconnection(&mut *feed).await;
    assert!(changes.reset && changes.took_over);
    feed.applied().await;
    assert!(!feed.poll().await.unwrap().took_over);
    assert!(
        !store
            .is_seen_everywhere(&before, SILENCE_MAX)
            .await
            .unwrap_or(false)
    );

    proxy.lead_to(&primary.address());
    standby.sql("postgres", KILL);
    let mut said = String::new();
    for _ in 0..5 {
        said = chain(&feed.poll().await.unwrap_err());
    }
    assert!(said.contains("old primary"), "{said}");
    let mut refused = 0;
    for _ in 0..12 {
        refused += usize::from(store.pepper_ids(NOON).await.is_err());
    }
    assert!(refused > 0);
    proxy.lead_to(&standby.address());
    // The cursor belongs to this server.
    assert!(!after_reconnection(&mut *feed).await.reset);
}

/// Polls until there is a reset.
async fn until_reset(mut feed: Box<dyn ChangeFeed>) -> (Box<dyn ChangeFeed>, Changes) {
    loop {
        feed.wait().await;
        match feed.poll().await {
            Ok(changes) if changes.reset => return (feed, changes),
            Ok(_) => feed.applied().await,
            Err(_) => {}
        }
    }
}

/// The feed may not have noticed that another server is in use.
#[tokio::test(flavor = "multi_thread")]
async fn feed_goes_along_when_a_pooled_connection_leads_to_a_new_primary() {
    let primary = Cluster::start().unwrap();
    let (proxy, url) = FaultProxy::in_front_of(&primary.database_url("postgres")).await;
    let store = open_at(&url).await;
    let feed = followed(&store).await;
    let standby = primary.standby().unwrap();
    standby.promote();
    proxy.lead_to(&standby.address());
    primary.sql("postgres", KILL_POOLED);
    let following = tokio::spawn(until_reset(feed));
    let begin = Instant::now();
    while store.pepper_ids(NOON).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
    let (feed, changes) = timeout(Duration::from_secs(30), following)
        .await
        .unwrap()
        .unwrap();
    assert!(changes.took_over);
    assert!(feed.is_live());
    let followers = "select count(*) from pg_stat_activity where application_name = 'keys feed'";
    assert_eq!(standby.sql("postgres", followers).trim(), "1");
}

/// Otherwise a record from one server would be served although the changes of another are followed.
#[tokio::test(flavor = "multi_thread")]
async fn pooled_connections_lead_to_the_server_whose_changes_are_followed() {
    let [one, other] = [(); 2].map(|()| Cluster::start().unwrap());
    one.sql("postgres", "create database keys template template0");
    let (proxy, url) = FaultProxy::in_front_of(&one.database_url(DATABASE)).await;
    let (feeds_proxy, direct_url) = FaultProxy::in_front_of(&one.database_url(DATABASE)).await;
    let options = StoreOptions::default().direct_url(Some(direct_url.parse().unwrap()));
    let store = Store::connect(&url.parse().unwrap(), options)
        .await
        .unwrap();
    store.migrate().await.unwrap();
    store.pepper_ids(NOON).await.unwrap();
    one.dump_into(&other, DATABASE);
    let mut feed = followed(&store).await;

    // While changes of one are followed, the other is not read from, although it would answer.
    proxy.lead_to(&other.address());
    one.sql(DATABASE, KILL_POOLED);
    let following = tokio::spawn(async move {
        loop {
            feed.wait().await;
            if feed.poll().await.is_ok() {
                feed.applied().await;
            }
        }
    });
    sleep(Duration::from_millis(200)).await;
    let refused = store.pepper_ids(NOON).await.unwrap_err();
    assert!(chain(&refused).contains("another server"), "{refused:?}");
    following.abort();

    proxy.lead_to(&one.address());
    let mut feed = followed(&store).await;
    store.pepper_ids(NOON).await.unwrap();
    assert!(!feed.poll().await.unwrap().reset);
    feed.applied().await;

    // While none are followed, it is. Afterwards everything is read again, although the feed is
    // where it was.
    feeds_proxy.set(Fault::Cut).await;
    while feed.is_live() {
        feed.wait().await;
    }
    proxy.lead_to(&other.address());
    one.sql(DATABASE, KILL_POOLED);
    sleep(Duration::from_millis(200)).await;
    store.pepper_ids(NOON).await.unwrap();
    proxy.lead_to(&one.address());
    feeds_proxy.set(Fault::None).await;
    assert!(after_reconnection(&mut *feed).await.reset);
    feed.applied().await;
    store.pepper_ids(NOON).await.unwrap();
    assert!(!feed.poll().await.unwrap().reset);
}

/// A change that waits for a lock on the old primary while the feed moves on is made there, and
/// lost.
#[tokio::test(flavor = "multi_thread")]
async fn commit_on_a_server_that_is_no_longer_followed_is_not_acknowledged() {
    let primary = Cluster::start().unwrap();
    let url = primary.database_url("postgres");
    let (feeds_proxy, direct_url) = FaultProxy::in_front_of(&url).await;
    let options = StoreOptions::default()
        .direct_url(Some(direct_url.parse().unwrap()))
        .statement_timeout(Duration::from_secs(30))
        .operation_timeout(Duration::from_secs(40));
    let store = Store::connect(&url.parse().unwrap(), options)
        .await
        .unwrap();
    store.migrate().await.unwrap();
    let key = add_key(&store, a_key().build_new()).await;
    let mut feed = followed(&store).await;
    let standby = primary.standby().unwrap();

    let locking = by_hand(&url).await;
    locking
        .batch_execute("begin; select from api_key for update")
        .await
        .unwrap();
    let revoking = {
        let (store, id) = (store.clone(), key.id);
        tokio::spawn(async move {
            store
                .revoke_key(None, id, Revocation::default(), a_change().build())
                .await
        })
    };
    let waiting = "select count(*) from pg_stat_activity \
                   where application_name = 'keys' and wait_event_type = 'Lock'";
    let begin = Instant::now();
    while primary.sql("postgres", waiting).trim() != "1" {
        assert!(begin.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(20)).await;
    }
    standby.promote();
    feeds_proxy.lead_to(&standby.address());
    primary.sql("postgres", KILL_LISTENERS);
    assert!(after_reconnection(&mut *feed).await.took_over);
    feed.applied().await;
    locking.batch_execute("commit").await.unwrap();

    let error = match revoking.await.unwrap() {
        Err(ChangeError::Store(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(chain(&error).contains("no longer"), "{}", chain(&error));
    let count = "select count(*) from api_key where revoked_at is not null";
    assert_eq!(primary.sql("postgres", count).trim(), "1");
    assert_eq!(standby.sql("postgres", count).trim(), "0");
}

/// The pool leads to an old state of the database, in which a key is not revoked yet, and the feed
/// to the current one.
#[tokio::test(flavor = "multi_thread")]
async fn key_is_not_accepted_because_of_a_server_that_is_not_followed() {
    let [present, old] = [(); 2].map(|()| Cluster::start().unwrap());
    present.sql("postgres", "create database keys template template0");
    let (proxy, url) = FaultProxy::in_front_of(&present.database_url(DATABASE)).await;
    let options =
        StoreOptions::default().direct_url(Some(present.database_url(DATABASE).parse().unwrap()));
    let url = url.parse().unwrap();
    let store = Store::connect(&url, options).await.unwrap();
    store.migrate().await.unwrap();
    let account = add_account(&store).await;
    let (secret, key) = a_key().of(&account).issue();
    let key = add_key(&store, key).await;
    present.dump_into(&old, DATABASE);
    let service = KeyService::builder(store.clone(), pepper_ring("p1")).build();
    let following = service.clone();
    let maintained = tokio::spawn(async move { following.maintain().await });
    while !service.cache_state().is_listening {
        sleep(Duration::from_millis(20)).await;
    }
    let request = VerifyRequest::new(secret.expose());
    // By another instance, because this one remembers its own revocations.
    let other = open_at(&present.database_url(DATABASE)).await;
    let revoked = other
        .revoke_key(None, key.id, Revocation::default(), a_change().build())
        .await;
    assert!(revoked.unwrap().is_some());

    proxy.lead_to(&old.address());
    present.sql(DATABASE, KILL_POOLED);
    let mut refused = 0;
    let begin = Instant::now();
    while refused == 0 || begin.elapsed() < Duration::from_millis(500) {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "the old server is never asked"
        );
        match service.verify(&request).await {
            Ok(verdict) => assert!(!verdict.is_valid(), "{verdict:?}"),
            Err(_) => refused += 1,
        }
    }
    proxy.lead_to(&present.address());
    let begin = Instant::now();
    let verdict = loop {
        match service.verify(&request).await {
            Ok(verdict) => break verdict,
            Err(error) => assert!(begin.elapsed() < Duration::from_secs(20), "{error:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(verdict.code, VerdictCode::Denied(Denial::Revoked));
    maintained.abort();
}

/// A replica that had not received a revocation takes over. The instance that acknowledged it
/// applies it again, and records that in the audit trail.
#[tokio::test(flavor = "multi_thread")]
async fn revocations_that_a_failover_loses_are_applied_again() {
    lose_a_revocation(async |_, _| {}).await;
}

/// A failing disk, for example, makes polls fail before the server is lost.
#[tokio::test(flavor = "multi_thread")]
async fn revocations_are_applied_again_also_if_polls_failed_before_the_failover() {
    lose_a_revocation(async |primary, service| {
        primary.sql("postgres", &fail_polls("P0001"));
        let begin = Instant::now();
        while service.following_fault().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(30));
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Makes each poll that reports fail with this SQLSTATE.
fn fail_polls(state: &str) -> String {
    format!(
        "create or replace function fail() returns trigger language plpgsql as \
         $$ begin raise exception 'planted' using errcode = '{state}'; end $$; \
         create trigger fail before update on instance for each row execute function fail()"
    )
}

/// Fails over to a replica that lacks an acknowledged revocation. `before` is called before the
/// primary is lost.
async fn lose_a_revocation(before: impl AsyncFnOnce(&Cluster, &KeyService)) {
    let primary = Cluster::start().unwrap();
    let (proxy, url) = FaultProxy::in_front_of(&primary.database_url("postgres")).await;
    let store = open_at(&url).await;
    let service = KeyService::builder(store.clone(), pepper_ring("p1")).build();
    let following = service.clone();
    let maintained = tokio::spawn(async move { following.maintain().await });
    let standby = primary.standby().unwrap();
    let lost = add_key(&store, a_key().build_new()).await;
    let begin = Instant::now();
    let wait_for = async |count: &str, what: &str| {
        while standby.sql("postgres", what).trim() != count {
            assert!(begin.elapsed() < Duration::from_mins(1), "{what}");
            sleep(Duration::from_millis(100)).await;
        }
    };
    wait_for("1", "select count(*) from api_key").await;
    while !service.cache_state().is_listening {
        sleep(Duration::from_millis(20)).await;
    }
    standby.detach();
    let revoked = service.revoke_key(&Actor::system(), None, lost.id).await;
    assert!(revoked.unwrap().is_some());
    assert_eq!(service.revocations_remembered(), 1);

    before(&primary, &service).await;
    primary.crash();
    standby.promote();
    proxy.lead_to(&standby.address());
    wait_for(
        "1",
        "select count(*) from api_key where revoked_at is not null",
    )
    .await;
    let replayed =
        "select count(*) from audit_event where action = 'key.revoked' and reason = 'replayed'";
    wait_for("1", replayed).await;
    maintained.abort();
}

/// A server with a broken disk or broken data is replaced, and its successor does not fail.
#[tokio::test(flavor = "multi_thread")]
async fn polls_that_fail_by_io_or_internal_errors_may_succeed_later() {
    let database = Database::create().await;
    let store = open(&database).await;
    let mut feed = followed(&store).await;
    for (state, may_pass) in [
        ("58000", true),
        ("58030", true),
        ("XX000", true),
        ("XX001", true),
        ("XX002", true),
        ("42P01", false),
        ("P0001", false),
    ] {
        database.run(&fail_polls(state)).await.unwrap();
        let begin = Instant::now();
        let error = loop {
            feed.wait().await;
            match feed.poll().await {
                Ok(_) => feed.applied().await,
                Err(error) => break error,
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "{state}");
        };
        assert!(chain(&error).contains("planted"), "{}", chain(&error));
        let is_unavailable = matches!(error, StoreError::Unavailable(_));
        assert_eq!(is_unavailable, may_pass, "{state}");
        database.run("drop trigger fail on instance").await.unwrap();
        after_reconnection(&mut *feed).await;
        feed.applied().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_replication_is_noticed() {
    let primary = Cluster::start().unwrap();
    let store = open_at(&primary.database_url("postgres")).await;
    let _standby = primary.standby().unwrap();
    let feed = followed(&store).await;
    assert!(feed.is_replicated_asynchronously());
    primary.replicate_synchronously();
    let feed = followed(&store).await;
    assert!(!feed.is_replicated_asynchronously());
}

/// Ordinary roles of managed offers may not read all of it.
#[tokio::test(flavor = "multi_thread")]
async fn server_that_does_not_tell_its_identity_is_used() {
    let cluster = Cluster::start().unwrap();
    cluster.sql("postgres", "create role app login");
    cluster.sql("postgres", "create database keys owner app");
    cluster.sql(
        DATABASE,
        "revoke execute on function pg_control_system, pg_walfile_name, pg_current_wal_lsn from public",
    );
    let url = cluster.database_url(DATABASE).replace("postgres@", "app@");
    let store = open_at(&url).await;
    let mut feed = followed(&store).await;
    let (key, commit) = revoked(&store).await;
    assert_eq!(
        news(&mut *feed).await,
        HashSet::from([Changed::Key(key.id)])
    );
    assert!(is_seen_soon(&store, commit, &mut [&mut feed]).await);
}

/// The role of one URL may read all of it, and that of the other may not.
#[tokio::test(flavor = "multi_thread")]
async fn server_that_tells_its_identity_to_one_role_only_is_one_server() {
    let cluster = Cluster::start().unwrap();
    cluster.sql(
        "postgres",
        "create role told login; create role untold login",
    );
    for (pooled, direct) in [("told", "untold"), ("untold", "told")] {
        let name = format!("keys_{pooled}");
        cluster.sql("postgres", &format!("create database {name}"));
        open_at(&cluster.database_url(&name)).await;
        let functions = "function pg_control_system, pg_walfile_name, pg_current_wal_lsn";
        cluster.sql(
            &name,
            &format!(
                "revoke execute on {functions} from public; grant execute on {functions} to told; \
                 grant all on all tables in schema public to told, untold"
            ),
        );
        let url = |role: &str| {
            let url = cluster.database_url(&name);
            url.replace("postgres@", &format!("{role}@"))
        };
        let options = StoreOptions::default().direct_url(Some(url(direct).parse().unwrap()));
        let store = Store::connect(&url(pooled).parse().unwrap(), options)
            .await
            .unwrap();
        // Over a connection that stays.
        store.pepper_ids(NOON).await.unwrap();
        let mut feed = followed(&store).await;
        let (key, commit) = revoked(&store).await;
        assert_eq!(
            news(&mut *feed).await,
            HashSet::from([Changed::Key(key.id)])
        );
        assert!(is_seen_soon(&store, commit, &mut [&mut feed]).await);
    }
}

/// Sessions of `pg_restore`, logical replication and bulk tools have this role.
#[tokio::test(flavor = "multi_thread")]
async fn changes_in_the_replica_role_are_in_the_feed() {
    let database = Database::create().await;
    let store = open(&database).await;
    let key = add_key(&store, a_key().build_new()).await;
    let mut feed = followed(&store).await;
    database
        .run("set session_replication_role = replica; update api_key set revoked_at = created_at")
        .await
        .unwrap();
    assert_eq!(
        news(&mut *feed).await,
        HashSet::from([Changed::Key(key.id)])
    );
    let unrevoked = database
        .run("set session_replication_role = replica; update api_key set revoked_at = null")
        .await;
    assert!(unrevoked.unwrap_err().contains("final"));
}

/// A clean-up by hand deletes rows that have not been read. The service prunes only rows that have
/// been.
#[tokio::test(flavor = "multi_thread")]
async fn log_that_is_emptied_or_edited_by_hand_is_a_change_of_everything() {
    let database = Database::create().await;
    let store = open(&database).await;
    add_key(&store, a_key().build_new()).await;
    let mut feed = followed(&store).await;
    for tidied in [
        "truncate key_change",
        "delete from key_change",
        "update key_change set kind = 2 where kind = 1",
        "set session_replication_role = replica; delete from key_change",
    ] {
        let statements = format!(
            "begin; update api_key set name = '{}'; {tidied}; commit",
            tidied.len()
        );
        database.run(&statements).await.unwrap();
        assert!(
            news(&mut *feed).await.contains(&Changed::Everything),
            "{tidied}"
        );
    }
    database
        .run("update key_change set at = at - interval '11 minutes'")
        .await
        .unwrap();
    let left = "select count(*) from key_change";
    for _ in 0..100 {
        store.sweep(NOON).await.unwrap();
        if database.number(left).await == 0 {
            break;
        }
        feed.wait().await;
        assert_eq!(news(&mut *feed).await, HashSet::new());
    }
    assert_eq!(database.number(left).await, 0);
    assert_eq!(news(&mut *feed).await, HashSet::new());
}

/// An instance whose row is deleted by hand may use its cache for a while.
#[tokio::test(flavor = "multi_thread")]
async fn instances_deleted_by_hand_are_waited_for() {
    let database = Database::create().await;
    let store = open(&database).await;
    let _feed = followed(&store).await;
    let (_, commit) = revoked(&store).await;
    database.run("delete from instance").await.unwrap();
    assert!(
        !store
            .is_seen_everywhere(&commit, SILENCE_MAX)
            .await
            .unwrap()
    );
}

/// Changes made while a trigger is off are not in the log, so the feed is down, and starts afresh
/// when the triggers are right again.
#[tokio::test(flavor = "multi_thread")]
async fn feed_is_down_while_a_trigger_of_the_log_is_not_as_it_should_be() {
    let database = Database::create().await;
    let store = open(&database).await;
    add_key(&store, a_key().build_new()).await;
    let mut feed = followed(&store).await;
    for (broken, name) in [
        (
            "alter table api_key disable trigger all",
            "api_key_update_noted",
        ),
        (
            "alter table account disable trigger account_update_noted",
            "account_update_noted",
        ),
        // The state in which `pg_restore --disable-triggers` leaves them.
        (
            "alter table key_change disable trigger all; alter table key_change enable trigger all",
            "key_change_kept",
        ),
    ] {
        database
            .run(&format!("{broken}; {KILL_LISTENERS}"))
            .await
            .unwrap();
        while feed.is_live() {
            feed.wait().await;
        }
        for _ in 0..2 {
            let error = feed.poll().await.unwrap_err();
            assert!(matches!(error, StoreError::Unexpected(_)), "{error:?}");
            assert!(chain(&error).contains(name), "{}", chain(&error));
        }
        store.migrate().await.unwrap();
        assert!(feed.poll().await.unwrap().reset, "{broken}");
        feed.applied().await;
        assert_eq!(news(&mut *feed).await, HashSet::new());
    }

    // Disabled and enabled again between two checks.
    database
        .run(&format!(
            "begin; alter table api_key disable trigger api_key_update_noted; update api_key set name = 'x'; \
             alter table api_key enable always trigger api_key_update_noted; commit; {KILL_LISTENERS}"
        ))
        .await
        .unwrap();
    while feed.is_live() {
        feed.wait().await;
    }
    assert!(feed.poll().await.unwrap().reset);
    feed.applied().await;

    database
        .run("drop trigger account_update_noted on account")
        .await
        .unwrap();
    // Without a new connection, it is noticed within ten seconds.
    let begin = Instant::now();
    let error = loop {
        match feed.poll().await {
            Ok(_) => feed.applied().await,
            Err(error) => break error,
        }
        assert!(begin.elapsed() < Duration::from_secs(15));
        feed.wait().await;
    };
    assert!(chain(&error).contains("account_update_noted"));
}

/// Rows that every poll has seen are not read again, however long a transaction has been open.
#[tokio::test(flavor = "multi_thread")]
async fn poll_reads_what_is_new_while_an_old_transaction_is_open() {
    const ROWS: i64 = 100_000;
    let database = Database::create().await;
    let store = open(&database).await;
    let key = add_key(&store, a_key().build_new()).await;
    let old = by_hand(&database.url()).await;
    old.batch_execute("begin; update api_key set name = 'late'")
        .await
        .unwrap();
    let mut feed = followed(&store).await;
    // Two transactions that have ended, and one that has written as much and is still open.
    let fill = format!(
        "insert into key_change (kind, ref) select 1, gen_random_uuid() from generate_series(1, {ROWS})"
    );
    database.run(&fill).await.unwrap();
    let writing = by_hand(&database.url()).await;
    writing
        .batch_execute(&format!("begin; {fill}"))
        .await
        .unwrap();
    while {
        let changes = feed.poll().await.unwrap();
        assert!(!changes.reset);
        changes.more
    } {}
    feed.applied().await;

    let read = "select coalesce(sum(idx_tup_read + seq_tup_read), 0) from pg_stat_user_tables \
                join pg_stat_user_indexes using (relid) where pg_stat_user_tables.relname = 'key_change'";
    // The server counts with a delay of a second.
    let settle = async |feed: &mut dyn ChangeFeed| {
        for _ in 0..4 {
            assert_eq!(news(feed).await, HashSet::new());
            sleep(Duration::from_millis(400)).await;
        }
    };
    settle(&mut *feed).await;
    let before = database.number(read).await;
    settle(&mut *feed).await;
    settle(&mut *feed).await;
    let after = database.number(read).await;
    assert!(after - before < ROWS / 10, "{} rows", after - before);

    old.batch_execute("commit").await.unwrap();
    assert_eq!(
        news(&mut *feed).await,
        HashSet::from([Changed::Key(key.id)])
    );
}

/// A new key or account is in no cache.
#[tokio::test(flavor = "multi_thread")]
async fn creating_keys_and_accounts_wakes_no_instance() {
    let database = Database::create().await;
    let store = open(&database).await;
    let mut feed = followed(&store).await;
    let (_client, listener) = by_hand_listening(&database.url()).await;
    news(&mut *feed).await;
    let account = add_account(&store).await;
    for _ in 0..5 {
        add_key(&store, a_key().of(&account).build_new()).await;
        add_key(&store, a_key().session_of(&account).build_new()).await;
    }
    sleep(Duration::from_millis(100)).await;
    assert_eq!(listener.load(Ordering::Relaxed), 0);
    revoked(&store).await;
    let begin = Instant::now();
    while listener.load(Ordering::Relaxed) == 0 {
        assert!(begin.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(5)).await;
    }
}

/// Counts the notifications that instances get.
async fn by_hand_listening(url: &str) -> (Client, Arc<AtomicUsize>) {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if matches!(message, AsyncMessage::Notification(_)) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    client.batch_execute("listen key_change").await.unwrap();
    (client, heard)
}

/// Wake-ups do not make an instance poll more often than 25 times a second, and no change waits
/// longer than that.
#[tokio::test(flavor = "multi_thread")]
async fn polls_are_few_however_many_changes_there_are() {
    let database = Database::create().await;
    let store = open(&database).await;
    let mut feed = followed(&store).await;
    let begin = Instant::now();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            while begin.elapsed() < Duration::from_secs(2) {
                revoked(&store).await;
            }
        })
    };
    let mut polls = 0;
    while !writer.is_finished() {
        feed.wait().await;
        news(&mut *feed).await;
        polls += 1;
    }
    let seconds = begin.elapsed().as_secs_f64();
    assert!(
        f64::from(polls) <= 25.0 * seconds + 2.0,
        "{polls} in {seconds} s"
    );
}

/// A feed that is woken more often than it polls stops listening, polls as if it were woken, and
/// listens again once it is quiet.
#[tokio::test(flavor = "multi_thread")]
async fn feed_that_wake_ups_crowd_listens_again_when_it_is_quiet() {
    let database = Database::create().await;
    let store = open(&database).await;
    let mut feed = followed(&store).await;
    let mut pause = async || {
        let begin = Instant::now();
        feed.wait().await;
        let paused = begin.elapsed();
        (paused, news(&mut *feed).await)
    };
    let is_quick = |paused: Duration| paused < POLL_INTERVAL / 2;
    // Far more wake-ups than polls, for two pauses between polls.
    let writer = by_hand(&database.url()).await;
    let crowd = async {
        for _ in 0..30 {
            writer.batch_execute("notify key_change").await.unwrap();
            sleep(Duration::from_millis(5)).await;
        }
    };
    let mut polls = async || {
        for _ in 0..4 {
            let (paused, _) = pause().await;
            assert!(is_quick(paused), "{paused:?}");
        }
    };
    tokio::join!(crowd, polls());

    // A change is found without a wake-up.
    let key = add_key(&store, a_key().build_new()).await;
    let id = key.id.as_uuid();
    let by_hand = format!("update api_key set revoked_at = now() where id = '{id}'");
    database.run(&by_hand).await.unwrap();
    let (paused, found) = pause().await;
    assert!(
        is_quick(paused) && found.contains(&Changed::Key(key.id)),
        "{paused:?}, {found:?}"
    );

    let mut quick = 0;
    while is_quick(pause().await.0) {
        quick += 1;
        assert!(quick < 40, "it never listens again");
    }
    assert!(quick >= 10, "{quick}");
    let revocation = async {
        sleep(Duration::from_millis(20)).await;
        revoked(&store).await
    };
    let ((key, _), (paused, found)) = tokio::join!(revocation, pause());
    assert!(
        is_quick(paused) && found.contains(&Changed::Key(key.id)),
        "{paused:?}, {found:?}"
    );
}
