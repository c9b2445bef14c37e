//! The identity of the file: one file under many names, and one name for many files.

use std::error::Error as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keys_core::Revocation;
use keys_service::ports::{
    Accounts as _, ChangeError, ChangeLog as _, Keys as _, Maintenance as _, SILENCE_MAX,
    StoreError,
};
use keys_store::{DatabaseUrl, FileLost, OpenError, Store, StoreOptions, UnsafeFile};
use keys_testkit::contract::followed;
use keys_testkit::data::{a_change, a_key, an_account};

use crate::common::{add_account, add_key};
use crate::{File, by_hand, mode};

/// Time limit for a store that follows its feed to notice a loss.
const FOUND_WITHIN: Duration = Duration::from_secs(1);

async fn open(path: impl Into<PathBuf>) -> Result<Store, OpenError> {
    Store::open(&DatabaseUrl::sqlite(path)).await
}

fn is_lost(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(source) if source.is::<FileLost>())
}

/// Every spelling of the path of one file, by symbolic links, relative and with `..`.
#[tokio::test(flavor = "multi_thread")]
async fn processes_find_each_other_by_whatever_name_they_open_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for made in ["real", "link"] {
        fs::create_dir(at(made)).unwrap();
    }
    let server = open(at("real/keys.db")).await.unwrap();
    symlink(at("real/keys.db"), at("link/keys.db")).unwrap();
    symlink("../link/keys.db", at("real/other-name.db")).unwrap();
    symlink("real", at("folder")).unwrap();
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(at("real/keys.db").strip_prefix("/").unwrap());

    let key = add_key(&server, a_key().build_new()).await;
    let mut feed = followed(&server).await;
    let revoked = server
        .revoke_key(None, key.id, Revocation::default(), a_change().build())
        .await;
    let commit = revoked.unwrap().unwrap();
    feed.poll().await.unwrap();
    feed.applied().await;
    let names = [
        at("real/../real/keys.db"),
        at("link/keys.db"),
        at("real/other-name.db"),
        at("folder/keys.db"),
        relative,
    ];
    for name in names {
        let alone = server.is_seen_everywhere(&commit, SILENCE_MAX).await;
        assert!(alone.unwrap(), "{}", name.display());
        let other = open(&name).await.unwrap();
        let following = followed(&other).await;
        for store in [&server, &other] {
            let seen = store.is_seen_everywhere(&commit, SILENCE_MAX).await;
            assert!(!seen.unwrap(), "{}", name.display());
        }
        drop((following, other));
    }
    let locks = |folder: &str| {
        let names = fs::read_dir(at(folder)).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".lock")).count()
    };
    assert_eq!((locks("real"), locks("link")), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn link_to_a_file_that_does_not_exist_yet_creates_it_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (link, target) = (folder.path().join("keys.db"), "volume/data/keys.db");
    symlink(target, &link).unwrap();
    add_account(&open(&link).await.unwrap()).await;
    let target = folder.path().join(target);
    assert!(link.is_symlink() && target.is_file());
    assert_eq!(mode(&target), 0o600);
    assert_eq!(mode(target.parent().unwrap()), 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn file_with_two_hard_links_is_refused_by_either_name() {
    let file = File::new();
    let account = add_account(&file.open().await).await;
    let elsewhere = tempfile::tempdir_in(file.folder.path()).unwrap();
    let second = elsewhere.path().join("keys.db");
    fs::hard_link(file.path(), &second).unwrap();
    for path in [file.path(), second.clone()] {
        let refused = open(&path).await.unwrap_err();
        let OpenError::UnsafeFile(reason @ UnsafeFile::HardLinks { links: 2, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.to_string().contains("2 hard links"), "{reason}");
    }
    fs::remove_file(second).unwrap();
    let store = file.open().await;
    assert!(store.find_account(account.id).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_file_is_an_error_where_none_is_to_be_created() {
    let file = File::new();
    let options = StoreOptions::default().create(false);
    let path = file.folder.path().join("new").join("keys.db");
    let refused = Store::connect(&DatabaseUrl::sqlite(&path), options.clone()).await;
    assert!(matches!(
        refused,
        Err(OpenError::UnsafeFile(UnsafeFile::Missing { .. }))
    ));
    assert!(!path.parent().unwrap().exists());
    file.open().await;
    let url = DatabaseUrl::sqlite(file.path());
    Store::connect(&url, options).await.unwrap();
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    format!("{}{suffix}", path.display()).into()
}

/// A file with the same content, which SQLite would take for the same database.
fn backup(path: &Path) -> PathBuf {
    use diesel::connection::SimpleConnection as _;
    let backup = path.with_extension("backup");
    let statement = format!("vacuum into '{}'", backup.display());
    by_hand(path).batch_execute(&statement).unwrap();
    backup
}

/// A word of the error, and a change of the database under a running service.
type Loss = (&'static str, fn(&Path));

const LOSSES: [Loss; 8] = [
    ("replaced", |path| {
        let backup = backup(path);
        for suffix in ["-wal", "-shm"] {
            fs::remove_file(beside(path, suffix)).unwrap();
        }
        fs::rename(backup, path).unwrap();
    }),
    ("replaced", |path| {
        fs::rename(backup(path), path).unwrap();
    }),
    ("removed", |path| fs::remove_file(path).unwrap()),
    ("removed", |path| {
        fs::rename(path, path.with_extension("old")).unwrap();
    }),
    ("removed", |path| {
        let folder = path.parent().unwrap();
        fs::rename(folder, folder.with_extension("old")).unwrap();
    }),
    ("replaced", |path| {
        let folder = path.parent().unwrap();
        let backup = backup(path);
        fs::rename(folder, folder.with_extension("old")).unwrap();
        fs::create_dir(folder).unwrap();
        let moved = folder
            .with_extension("old")
            .join(backup.file_name().unwrap());
        fs::rename(moved, path).unwrap();
    }),
    ("removed", |path| {
        fs::remove_file(beside(path, "-wal")).unwrap();
    }),
    ("removed", |path| {
        fs::remove_file(beside(path, "-shm")).unwrap();
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn change_to_a_file_that_was_moved_away_is_not_acknowledged() {
    for (number, (word, lose)) in LOSSES.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data").join("keys.db");
        let store = open(&path).await.unwrap();
        let account = add_account(&store).await;
        lose(&path);
        let refused = store
            .insert_account(an_account().build(), a_change().build())
            .await;
        let Err(ChangeError::Store(error)) = refused else {
            panic!("{number}: {refused:?}");
        };
        assert!(is_lost(&error), "{number}: {error:?}");
        let said = error.source().unwrap().to_string();
        assert!(said.contains(word), "{number}: {said}");
        // Permanently, and for every reader.
        assert!(is_lost(&store.ready().await.unwrap_err()), "{number}");
        let found = store.find_account(account.id).await;
        assert!(is_lost(&found.unwrap_err()), "{number}");
        let lost = tokio::time::timeout(FOUND_WITHIN, store.lost()).await;
        assert!(lost.unwrap().path().starts_with(folder.path()), "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_was_moved_away_is_missed_within_a_second_by_a_store_that_only_follows() {
    for (number, (_, lose)) in LOSSES.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data").join("keys.db");
        let store = open(&path).await.unwrap();
        let mut feed = followed(&store).await;
        lose(&path);
        let missed = async {
            loop {
                feed.wait().await;
                if let Err(error) = feed.poll().await {
                    return error;
                }
                feed.applied().await;
            }
        };
        let error = tokio::time::timeout(FOUND_WITHIN, missed).await;
        assert!(is_lost(&error.unwrap()), "{number}");
        assert!(!feed.is_live(), "{number}");
        let lost = tokio::time::timeout(FOUND_WITHIN, store.lost()).await;
        lost.unwrap();
    }
}

/// As deployments switch between versions of a folder.
#[tokio::test(flavor = "multi_thread")]
async fn link_that_leads_elsewhere_is_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    open(at("one/keys.db")).await.unwrap();
    open(at("two/keys.db")).await.unwrap();
    symlink("one", at("current")).unwrap();
    let store = open(at("current/keys.db")).await.unwrap();
    add_account(&store).await;
    symlink("two", at("next")).unwrap();
    fs::rename(at("next"), at("current")).unwrap();
    let refused = store
        .insert_account(an_account().build(), a_change().build())
        .await;
    assert!(matches!(refused, Err(ChangeError::Store(error)) if is_lost(&error)));
}

/// Checkpoints, vacuuming and other processes do not count as a loss.
#[tokio::test(flavor = "multi_thread")]
async fn file_stays_the_same_through_its_maintenance() {
    use diesel::connection::SimpleConnection as _;
    let file = File::new();
    let store = file.open().await;
    let mut feed = followed(&store).await;
    for statement in [
        "pragma wal_checkpoint(truncate)",
        "vacuum",
        "analyze",
        "pragma journal_mode = wal",
    ] {
        add_account(&store).await;
        file.by_hand().batch_execute(statement).unwrap();
        let other = file.open().await;
        add_account(&other).await;
        drop(other);
        store.ready().await.unwrap();
        feed.poll().await.unwrap();
        feed.applied().await;
    }
}

/// SQLite would copy the pages in the log over the restored ones.
#[tokio::test(flavor = "multi_thread")]
async fn log_that_was_left_by_another_file_is_refused() {
    let file = File::new();
    let path = file.path();
    let store = file.open().await;
    let account = add_account(&store).await;
    let backup = backup(&path);
    let second = add_account(&store).await;
    fs::rename(&backup, &path).unwrap();
    let refused = open(&path).await.unwrap_err();
    let OpenError::UnsafeFile(reason @ UnsafeFile::LogOfAnotherFile { .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.to_string().contains("keys.db-wal"), "{reason}");
    drop(store);
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(beside(&path, suffix)).unwrap();
    }
    let store = file.open().await;
    assert!(store.find_account(account.id).await.unwrap().is_some());
    assert!(store.find_account(second.id).await.unwrap().is_none());
}
