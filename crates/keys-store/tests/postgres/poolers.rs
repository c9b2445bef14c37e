//! Poolers in front of the server: those that give each client a session of its own work, and the
//! others are detected.

use std::time::Duration;

use keys_service::ports::Maintenance as _;
use keys_store::{Store, StoreOptions};
use keys_testkit::contract::followed;
use keys_testkit::data::a_key;
use keys_testkit::pgbouncer::PgBouncer;
use keys_testkit::postgres::Database;

use super::{add_account, add_key, by_hand, chain, hasty_insert};

/// The address of the server, and the name of the database.
fn parts(database: &Database) -> (String, String) {
    let url = database.url();
    let (address, name) = url.rsplit_once('/').unwrap();
    let address = address.rsplit_once('@').unwrap().1;
    (address.to_owned(), name.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_pooler_works_whether_or_not_it_passes_options_on_with_the_same_time_limits() {
    for ignored in ["", "ignore_startup_parameters = extra_float_digits,options"] {
        let database = Database::create().await;
        let _ = database.sql("create schema apart");
        let (address, name) = parts(&database);
        let settings = format!("pool_mode = session\n{ignored}");
        let pooler = tokio::task::spawn_blocking(move || PgBouncer::start(&address, &settings));
        let pooler = pooler.await.unwrap();
        let url = format!(
            "postgres://postgres@127.0.0.1:{}/{name}?options=-c%20search_path%3Dapart",
            pooler.port()
        );
        let options = StoreOptions::default().statement_timeout(Duration::from_secs(1));
        let store = Store::connect(&url.parse().unwrap(), options)
            .await
            .unwrap();
        store.migrate().await.unwrap();
        let account = add_account(&store).await;
        add_key(&store, a_key().of(&account).build_new()).await;
        let _feed = followed(&store).await;
        assert_eq!(database.sql("select count(*) from apart.api_key"), "1\n");

        // The time limit of the session ends statements that hang in the server.
        let blocker = by_hand(&database.url()).await;
        blocker
            .batch_execute("begin; lock table apart.account")
            .await
            .unwrap();
        hasty_insert(&store, &account).await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let waiting = "select count(*) from pg_stat_activity \
                       where datname = current_database() and wait_event_type = 'Lock'";
        let waiting: i64 = blocker.query_one(waiting, &[]).await.unwrap().get(0);
        assert_eq!(waiting, 0, "{ignored}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_mixes_sessions_is_refused_and_what_to_set_is_said() {
    let database = Database::create().await;
    let (address, name) = parts(&database);
    for settings in [
        "pool_mode = transaction",
        "pool_mode = transaction\nserver_round_robin = 1",
        "pool_mode = transaction\nmin_pool_size = 5\nserver_round_robin = 1",
        "pool_mode = transaction\nserver_reset_query_always = 1",
        "pool_mode = transaction\nignore_startup_parameters = extra_float_digits,options",
        "pool_mode = statement",
    ] {
        let target = address.clone();
        let pooler = tokio::task::spawn_blocking(move || PgBouncer::start(&target, settings));
        let pooler = pooler.await.unwrap();
        let url = format!("postgres://postgres@127.0.0.1:{}/{name}", pooler.port());
        let with_direct = StoreOptions::default().direct_url(Some(database.url().parse().unwrap()));
        for options in [StoreOptions::default(), with_direct] {
            let refused = Store::connect(&url.parse().unwrap(), options).await;
            let said = chain(&refused.expect_err(settings));
            assert!(
                said.contains("session mode") && said.contains("database.direct_url"),
                "{settings}: {said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn feed_and_migrations_go_past_the_pooler_by_the_direct_url() {
    let database = Database::create().await;
    let (address, name) = parts(&database);
    let target = address.clone();
    // Too few for all: the feed and the migration need none of them.
    let settings = "pool_mode = session\nmax_db_connections = 3";
    let pooler = tokio::task::spawn_blocking(move || PgBouncer::start(&target, settings));
    let pooler = pooler.await.unwrap();
    let url = format!("postgres://postgres@127.0.0.1:{}/{name}", pooler.port());
    let direct = format!("postgres://postgres@{address}/{name}?application_name=past");
    let options = StoreOptions::default()
        .direct_url(Some(direct.parse().unwrap()))
        .connections_max(4.try_into().unwrap());
    let store = Store::connect(&url.parse().unwrap(), options)
        .await
        .unwrap();
    store.migrate().await.unwrap();
    let _feed = followed(&store).await;
    add_account(&store).await;
    store.ready().await.unwrap();
    let feeds = "select count(*) from pg_stat_activity \
                 where datname = current_database() and application_name = 'past feed'";
    assert_eq!(database.sql(feeds), "1\n");
}
