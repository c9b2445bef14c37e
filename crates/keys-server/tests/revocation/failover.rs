//! The database crashes, moves to another cluster or fails over while keys are revoked. Every
//! server keeps the two seconds, and a revocation that waited for all is applied everywhere.

use std::collections::HashSet;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keys_testkit::pgbouncer::PgBouncer;
use keys_testkit::postgres::{Cluster, tool};
use keys_testkit::report::{figure, information, is_full};
use tokio::task::block_in_place;

use crate::campaign::{Campaign, Circumstances, Size, Trio};
use crate::fleet::SERVERS;
use crate::{millis, now};

/// The database of the servers.
const DATABASE: &str = "keys";

/// Time limit of a fault.
const AT_MOST: Duration = Duration::from_mins(2);

fn size() -> Size {
    if is_full() {
        Size {
            keys: 500,
            every: millis(40),
            asking: millis(3),
            window: usize::MAX,
            at_most: AT_MOST,
        }
    } else {
        Size {
            keys: 24,
            every: millis(60),
            asking: millis(10),
            window: usize::MAX,
            at_most: AT_MOST,
        }
    }
}

/// Returns a cluster with an empty database.
fn cluster() -> Cluster {
    let cluster = Cluster::start().unwrap();
    cluster.sql("postgres", &format!("create database {DATABASE}"));
    cluster
}

/// Returns the identifiers, in their external form, of the keys that this cluster has as revoked.
fn revoked(cluster: &Cluster) -> HashSet<String> {
    let statement = "select rtrim(translate(encode(uuid_send(id), 'base64'), '+/', '-_'), '=') \
                     from api_key where revoked_at is not null";
    let rows = cluster.sql(DATABASE, statement);
    rows.lines().map(str::to_owned).collect()
}

/// Fails unless this cluster has every acknowledged revocation.
fn has_all(what: &str, campaign: &Campaign, cluster: &Cluster) {
    let missing = campaign
        .acknowledged()
        .difference(&revoked(cluster))
        .count();
    figure(
        &format!("{what}: acknowledged revocations lost"),
        missing,
        "none",
        missing == 0,
    );
    assert_eq!(missing, 0, "acknowledged revocations are lost");
}

/// Advances the transaction numbers of a cluster, as in clusters in use.
fn use_up_transactions(cluster: &Cluster) {
    let procedure = "create procedure use_up(count int) language plpgsql as \
                     $$ begin for i in 1..count loop perform pg_current_xact_id(); commit; end loop; end $$";
    cluster.sql("postgres", procedure);
    cluster.sql("postgres", "call use_up(20000)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_is_everywhere_in_two_seconds_after_a_move_to_another_cluster() {
    const WHAT: &str = "moved by dump and restore";
    let (old, new) = (cluster(), Cluster::start().unwrap());
    use_up_transactions(&old);
    let trio = Trio::start(&old.database_url(DATABASE)).await;
    let campaign = Campaign::prepare(&trio, size()).await;
    let faults = async {
        campaign.reaches(30).await;
        trio.cut_all().await;
        block_in_place(|| {
            old.dump_into(&new, DATABASE);
            old.crash();
        });
        // One server comes back first and revokes before the others have noticed the move.
        campaign.revoke_on(&[1]);
        for server in 0..SERVERS {
            trio.lead(server, &new.address());
        }
        trio.mend(1).await;
        campaign.reaches(60).await;
        trio.mend(0).await;
        trio.mend(2).await;
        campaign.reaches(70).await;
        campaign.revoke_on(&[0, 1, 2]);
    };
    campaign.run(faults).await;
    campaign.report(WHAT, &Circumstances::default());
    has_all(WHAT, &campaign, &new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_a_synchronous_replica_takes_over() {
    const WHAT: &str = "synchronous replica promoted, old primary dead";
    let primary = cluster();
    let standby = primary.standby().unwrap();
    primary.replicate_synchronously();
    let trio = Trio::start(&primary.database_url(DATABASE)).await;
    let campaign = Campaign::prepare(&trio, size()).await;
    let faults = async {
        campaign.reaches(40).await;
        block_in_place(|| {
            primary.crash();
            standby.promote();
        });
        trio.move_all(&standby.address()).await;
    };
    campaign.run(faults).await;
    campaign.report(WHAT, &Circumstances::default());
    has_all(WHAT, &campaign, &standby);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_keep_their_word_when_an_asynchronous_replica_takes_over() {
    const WHAT: &str = "asynchronous replica promoted, old primary dead";
    let primary = cluster();
    let standby = primary.standby().unwrap();
    let trio = Trio::start(&primary.database_url(DATABASE)).await;
    let campaign = Campaign::prepare(&trio, size()).await;
    let mut circumstances = Circumstances::default();
    let faults = async {
        campaign.reaches(20).await;
        block_in_place(|| standby.detach());
        // Changes that are acknowledged from now on are lost.
        campaign.reaches(45).await;
        block_in_place(|| primary.crash());
        block_in_place(|| standby.promote());
        let arrived = revoked(&standby);
        // Read last, because clients note answers a moment after they arrive. No server changes
        // anything on the new primary yet.
        let acknowledged = campaign.acknowledged();
        circumstances.lost = acknowledged.difference(&arrived).cloned().collect();
        trio.move_all(&standby.address()).await;
    };
    campaign.run(faults).await;
    assert!(!circumstances.lost.is_empty(), "nothing was lost");
    campaign.report(WHAT, &circumstances);
    tells_of_the_rest(WHAT, &campaign, &standby);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_follow_the_new_primary_keep_the_bound_while_the_old_one_still_runs() {
    const WHAT: &str = "asynchronous replica promoted, old primary left running";
    let primary = cluster();
    let standby = primary.standby().unwrap();
    let trio = Trio::start(&primary.database_url(DATABASE)).await;
    let campaign = Campaign::prepare(&trio, size()).await;
    let mut circumstances = Circumstances::default();
    let mut before = HashSet::new();
    let faults = async {
        campaign.reaches(30).await;
        block_in_place(|| standby.promote());
        before = revoked(&standby);
        let mut followed = [Duration::ZERO; SERVERS];
        for server in 0..SERVERS {
            trio.lead(server, &standby.address());
        }
        // The first keeps its other connections to the old primary. The last one notices nothing
        // for a while.
        trio.cut_listener(0).await;
        followed[0] = follows(&trio, 0).await;
        trio.cut(1).await;
        trio.mend(1).await;
        followed[1] = follows(&trio, 1).await;
        campaign.reaches(60).await;
        trio.cut(2).await;
        trio.mend(2).await;
        followed[2] = follows(&trio, 2).await;
        circumstances.followed = Some(followed);
    };
    campaign.run(faults).await;
    let lost = revoked(&primary);
    circumstances.lost = lost.difference(&before).cloned().collect();
    campaign.report(WHAT, &circumstances);
    tells_of_the_rest(WHAT, &campaign, &standby);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_is_everywhere_in_two_seconds_while_the_database_crashes() {
    const WHAT: &str = "database killed and started again";
    let mut database = cluster();
    let trio = Trio::start(&database.database_url(DATABASE)).await;
    let campaign = Campaign::prepare(&trio, size()).await;
    let faults = async {
        for percent in [30, 60] {
            campaign.reaches(percent).await;
            block_in_place(|| {
                database.crash();
                database.start_again();
            });
        }
    };
    campaign.run(faults).await;
    campaign.report(WHAT, &Circumstances::default());
    has_all(WHAT, &campaign, &database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_is_everywhere_in_two_seconds_behind_a_session_pooler() {
    const WHAT: &str = "PgBouncer in between, killed and started again";
    let database = cluster();
    let pooler = || PgBouncer::start(&database.address(), "pool_mode = session");
    let mut bouncer = pooler();
    let url = format!(
        "postgres://postgres@127.0.0.1:{}/{DATABASE}",
        bouncer.port()
    );
    let trio = Trio::start(&url).await;
    let campaign = Campaign::prepare(&trio, size()).await;
    let faults = async {
        for percent in [30, 60] {
            campaign.reaches(percent).await;
            block_in_place(|| bouncer = pooler());
            trio.move_all(&format!("127.0.0.1:{}", bouncer.port()))
                .await;
        }
    };
    campaign.run(faults).await;
    campaign.report(WHAT, &Circumstances::default());
    has_all(WHAT, &campaign, &database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_is_everywhere_in_two_seconds_beside_an_old_transaction() {
    const WHAT: &str = "transaction open since before, many changes since";
    let rows = if is_full() { 1_000_000 } else { 100_000 };
    let database = cluster();
    let trio = Trio::start(&database.database_url(DATABASE)).await;
    // In another database of the cluster, which is enough.
    let open = OpenTransaction::begin(&database);
    // Of accounts that no server has cached.
    let changes = format!(
        "insert into key_change (kind, ref) select 2, gen_random_uuid() from generate_series(1, {rows})"
    );
    block_in_place(|| database.sql(DATABASE, &changes));
    let campaign = Campaign::prepare(&trio, size()).await;
    let faults = async {
        campaign.reaches(60).await;
        block_in_place(|| open.end());
    };
    campaign.run(faults).await;
    information(&format!("{WHAT}: changes in the log"), rows);
    campaign.report(WHAT, &Circumstances::default());
    has_all(WHAT, &campaign, &database);
}

/// Waits until this server follows the changes of another cluster than at first. Returns when it
/// was seen to. A busy server may change over before the test makes it, so each is asked by itself.
async fn follows(trio: &Trio, server: usize) -> Duration {
    const SAID: &str = "changes are followed on another server than before";
    for _ in 0..3_000 {
        if block_in_place(|| trio.servers[server].stderr().contains(SAID)) {
            return now();
        }
        tokio::time::sleep(millis(10)).await;
    }
    panic!("server {server} does not follow the new primary");
}

/// Prints the number of acknowledged revocations that the new primary does not have in the end.
fn tells_of_the_rest(what: &str, campaign: &Campaign, cluster: &Cluster) {
    let missing = campaign
        .acknowledged()
        .difference(&revoked(cluster))
        .count();
    information(
        &format!("{what}: acknowledged revocations that no server has applied again"),
        missing,
    );
}

/// An open transaction with a number of its own.
struct OpenTransaction(Child);

impl OpenTransaction {
    fn begin(cluster: &Cluster) -> Self {
        let mut psql = Command::new(tool("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--dbname"])
            .arg(cluster.database_url("postgres"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut psql = psql.spawn().unwrap();
        let pipe = psql.stdin.as_mut().unwrap();
        pipe.write_all(b"begin; select pg_current_xact_id();\n")
            .unwrap();
        let statement = "select count(*) from pg_stat_activity \
                         where state = 'idle in transaction' and backend_xid is not null";
        while cluster.sql("postgres", statement) != "1\n" {
            std::thread::sleep(millis(20));
        }
        Self(psql)
    }

    fn end(mut self) {
        let mut pipe = self.0.stdin.take().unwrap();
        pipe.write_all(b"commit;\n").unwrap();
        drop(pipe);
        assert!(self.0.wait().unwrap().success());
    }
}
