//! The map by itself, and under a scheduler that tries interleavings of threads.

use std::sync::Arc;

use keys_core::AccountId;
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};

use super::account_marks::{AccountMarks, Mark};
use super::locks::{Lock, Locks, ParkingLot};
use super::map::{Bounds, Forget, Found, Map, MapKey, OUTDATED, RecordId, SHARDS, Stored, Weigh};

/// A record that is permanently gone. It takes more bytes than others as well.
const GONE: u64 = u64::MAX;

/// A record that takes more bytes than others.
const HEAVY: u64 = 1 << 32;

impl Weigh for u64 {
    fn heap_bytes(&self) -> usize {
        if *self & HEAVY == 0 { 10 } else { 4_500 }
    }

    fn is_final(&self) -> bool {
        *self == GONE
    }
}

impl Weigh for (u64, Mark) {
    fn heap_bytes(&self) -> usize {
        0
    }

    fn is_final(&self) -> bool {
        false
    }
}

const ROOMY: Bounds = Bounds {
    entries_max: 100_000,
    bytes_max: usize::MAX,
};

fn key(number: u64) -> MapKey {
    // As uniform as a real digest, so that shards fill evenly.
    let mut state = number.wrapping_add(1);
    let digest: [u8; 32] = std::array::from_fn(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    let (words, _) = digest.as_chunks();
    let hash = u64::from_le_bytes(words[1]);
    MapKey { hash, digest }
}

fn id(number: u64) -> RecordId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    id
}

/// Returns the record that may be served.
fn value<L: Locks>(map: &Map<u64, L>, number: u64) -> Option<u64> {
    map.visit(&key(number), |found| match found {
        Found::Known(hit) if hit.read_at != OUTDATED => Some(*hit.value),
        Found::Known(_) | Found::Nothing | Found::Tombstone => None,
    })
}

/// Returns whether the key is refused without asking the database.
fn is_gone<L: Locks>(map: &Map<u64, L>, number: u64) -> bool {
    map.visit(&key(number), |found| match found {
        Found::Tombstone => true,
        Found::Known(hit) => *hit.value == GONE,
        Found::Nothing => false,
    })
}

fn put<L: Locks>(map: &Map<u64, L>, number: u64, value: u64) -> Stored<u64> {
    map.store(&key(number), id(number), &[], value, 0, map.snapshot())
}

fn collect(map: &Map<u64, ParkingLot>, mut seen: impl FnMut(RecordId, &mut u64)) {
    for shard in 0..SHARDS {
        map.collect(shard, &mut seen);
    }
}

fn map(bounds: Bounds) -> Map<u64, ParkingLot> {
    Map::new(bounds)
}

#[test]
fn what_was_stored_is_found_until_it_is_forgotten() {
    let map = map(ROOMY);
    for number in 0..1_000 {
        assert_eq!(put(&map, number, number), Stored::Yes(Vec::new()));
    }
    assert_eq!(map.size(), (1_000, 10_000));
    for number in 0..1_000 {
        assert_eq!(value(&map, number), Some(number));
        if number % 2 == 0 {
            map.forget(&id(number), Forget::Reload);
            assert_eq!(value(&map, number), None);
        }
    }
    assert_eq!(map.size(), (500, 5_000));
}

#[test]
fn records_that_are_looked_for_in_one_place_are_told_apart_by_their_digests() {
    let map = map(ROOMY);
    let key = |number| MapKey {
        hash: 7,
        ..key(number)
    };
    for number in 0..100 {
        map.prefetch(7);
        let stored = map.store(&key(number), id(number), &[], number, 0, map.snapshot());
        assert_eq!(stored, Stored::Yes(Vec::new()));
    }
    let find = |number| {
        map.visit(&key(number), |found| match found {
            Found::Known(hit) => Some(*hit.value),
            Found::Nothing | Found::Tombstone => None,
        })
    };
    for number in 0..100 {
        assert_eq!(find(number), Some(number));
    }
    assert_eq!(find(100), None);
    map.forget(&id(50), Forget::Reload);
    assert_eq!((find(49), find(50), find(51)), (Some(49), None, Some(51)));
}

#[test]
fn a_load_that_began_before_a_change_stores_nothing() {
    let map = map(ROOMY);
    let since = map.snapshot();
    map.forget(&id(1), Forget::Reload);
    let stored = map.store(&key(1), id(1), &[], 1, 0, since);
    assert_eq!(stored, Stored::Changed);
    assert_eq!(map.size(), (0, 0));
}

#[test]
fn a_change_of_what_a_record_depends_on_keeps_it_out() {
    let map = map(ROOMY);
    let since = map.snapshot();
    map.bump(&id(77));
    let store = |since| map.store(&key(1), id(1), &[id(77)], 1, 0, since);
    assert_eq!(store(since), Stored::Changed);
    assert_eq!(store(map.snapshot()), Stored::Yes(Vec::new()));
}

#[test]
fn a_tombstone_is_never_replaced() {
    let map = map(ROOMY);
    put(&map, 1, 1);
    map.forget(&id(1), Forget::ForEver);
    assert_eq!(put(&map, 1, 2), Stored::Final);
    map.forget(&id(1), Forget::Reload);
    map.outdate_all();
    assert!(map.visit(&key(1), |found| matches!(found, Found::Tombstone)));
    assert_eq!(put(&map, 1, 2), Stored::Final);
}

#[test]
fn a_record_that_was_read_as_gone_stays_so_through_any_reset() {
    let map = map(ROOMY);
    // As in another instance: the record was not here when the key was revoked.
    put(&map, 1, GONE);
    let resets: [fn(&Map<u64, ParkingLot>); 4] = [
        Map::outdate_all,
        |map| assert_eq!(map.forget(&id(1), Forget::Reload), None),
        Map::outdate_all,
        |map| assert_eq!(map.forget(&id(1), Forget::ForEver), None),
    ];
    for reset in resets {
        assert!(is_gone(&map, 1));
        reset(&map);
        // The database has lost it, by a failover or by a restored backup.
        assert_eq!(put(&map, 1, 5), Stored::Final);
        assert!(is_gone(&map, 1));
    }
    assert_eq!(put(&map, 1, GONE), Stored::Yes(Vec::new()));
    assert_eq!(map.size(), (1, 0), "a tombstone takes no bytes");
}

#[test]
fn a_record_that_is_gone_is_stored_whatever_has_changed_since() {
    let map = map(ROOMY);
    let since = map.snapshot();
    put(&map, 1, 1);
    map.outdate_all();
    let stored = map.store(&key(1), id(1), &[id(7)], GONE, 1, since);
    assert_eq!(stored, Stored::Yes(Vec::new()));
    assert!(is_gone(&map, 1));
}

#[test]
fn a_reset_stops_loads_under_way_and_has_everything_read_again() {
    let map = map(ROOMY);
    put(&map, 1, 1);
    let since = map.snapshot();
    map.outdate_all();
    assert_eq!(value(&map, 1), None);
    for number in [1, 2] {
        let stored = map.store(&key(number), id(number), &[], 2, 0, since);
        assert_eq!(stored, Stored::Changed);
        assert_eq!(value(&map, number), None);
        put(&map, number, 3);
        assert_eq!(value(&map, number), Some(3));
    }
}

#[test]
fn a_key_under_another_identifier_is_found_by_that_one() {
    let map = map(ROOMY);
    put(&map, 1, 1);
    let stored = map.store(&key(1), id(2), &[], 2, 0, map.snapshot());
    assert_eq!(stored, Stored::Yes(Vec::new()));
    map.forget(&id(1), Forget::Reload);
    assert_eq!(value(&map, 1), Some(2));
    map.forget(&id(2), Forget::Reload);
    assert_eq!(value(&map, 1), None);
}

#[test]
fn records_that_free_no_bytes_to_speak_of_make_no_room_for_large_ones() {
    // Room for 100 bytes a record on average.
    let map = map(Bounds {
        entries_max: 6_400,
        bytes_max: 640_000,
    });
    for number in 0..3_000 {
        put(&map, number, number);
    }
    for number in 10_000..12_000 {
        put(&map, number, number | HEAVY);
        assert!(map.size().1 <= 640_000 + SHARDS * 100);
    }
    let small = (0..3_000).filter(|number| value(&map, *number).is_some());
    assert_eq!(small.count(), 3_000);
    let large = (10_000..12_000).filter(|number| value(&map, *number).is_some());
    assert!(large.count() >= 64, "one in each shard at least");
}

#[test]
fn where_bytes_are_short_what_is_gone_for_good_stays_without_its_bytes() {
    let map = map(Bounds {
        entries_max: 64_000,
        bytes_max: 640_000,
    });
    for number in 0..3_000 {
        put(&map, number, GONE);
        assert!(map.size().1 <= 640_000 + SHARDS * 100);
    }
    assert!((0..3_000).all(|number| is_gone(&map, number)));
}

#[test]
fn where_small_records_take_all_bytes_a_large_one_is_not_kept() {
    let map = map(Bounds {
        entries_max: 640,
        bytes_max: 6_400,
    });
    for number in 0..2_000 {
        put(&map, number, number);
    }
    let (entries, _) = map.size();
    for number in 10_000..10_100 {
        assert_eq!(put(&map, number, number | HEAVY), Stored::Yes(Vec::new()));
        assert_eq!(value(&map, number), None);
    }
    assert!(map.size().0 + SHARDS >= entries, "{:?}", map.size());
}

#[test]
fn bounds_hold_in_entries_and_in_bytes() {
    for bounds in [
        Bounds {
            entries_max: 640,
            bytes_max: usize::MAX,
        },
        Bounds {
            entries_max: usize::MAX,
            bytes_max: 6_400,
        },
    ] {
        let map = map(bounds);
        for number in 0..10_000 {
            put(&map, number, number);
        }
        let (entries, bytes) = map.size();
        assert!(entries <= 640 && bytes <= 6_400, "{entries} {bytes}");
        assert!(entries >= 320, "evicts no more than it must: {entries}");
    }
}

#[test]
fn records_in_use_stay_and_tombstones_go_last() {
    let map = map(Bounds {
        entries_max: 6_400,
        bytes_max: usize::MAX,
    });
    for number in 0..100 {
        put(&map, number, number);
    }
    for number in 100..200 {
        put(&map, number, number);
        map.forget(&id(number), Forget::ForEver);
    }
    for number in 200..300 {
        put(&map, number, GONE);
    }
    for number in 1_000..30_000 {
        put(&map, number, number);
        if number % 10 == 0 {
            for hot in 0..100 {
                value(&map, hot);
            }
        }
    }
    let still_hot = (0..100).filter(|hot| value(&map, *hot).is_some()).count();
    assert!(still_hot >= 90, "{still_hot} of 100 hot records are left");
    let gone = (100..300).filter(|number| is_gone(&map, *number));
    assert_eq!(gone.count(), 200);
}

#[test]
fn marked_records_are_collected_once_or_handed_back() {
    let map = map(Bounds {
        entries_max: 64,
        bytes_max: usize::MAX,
    });
    let mark = |number| {
        map.visit(&key(number), |found| {
            if let Found::Known(mut hit) = found {
                *hit.value += 1;
                hit.mark();
            }
        });
    };
    put(&map, 1, 10);
    mark(1);
    let mut collected = Vec::new();
    collect(&map, |id, value| collected.push((id, *value)));
    collect(&map, |id, value| collected.push((id, *value)));
    assert_eq!(collected, [(id(1), 11)]);

    mark(1);
    assert_eq!(map.forget(&id(1), Forget::Reload), Some((id(1), 12)));
    let mut handed_back = 0;
    for number in 0..1_000 {
        if let Stored::Yes(out) = put(&map, number, 0) {
            handed_back += out.len();
        }
        mark(number);
    }
    collect(&map, |_, _| handed_back += 1);
    assert_eq!(handed_back, 1_000);
}

/// Locks that let shuttle's scheduler choose the next thread.
struct Scheduled;

impl Locks for Scheduled {
    type Lock<T> = Mutex<T>;
}

impl<T> Lock<T> for Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut self.lock().expect("no test panics under a lock"))
    }
}

/// Time at which a load takes its snapshot.
#[derive(Clone, Copy, PartialEq)]
enum Snapshot {
    BeforeReading,
    /// The built-in mistake: changes between reading and storing are missed.
    AfterReading,
}

/// Two loads of one record while it changes twice. Afterwards nothing older than the last change
/// may be served.
fn race(snapshot: Snapshot) {
    let map = Arc::new(Map::<u64, Scheduled>::new(ROOMY));
    let database = Arc::new(AtomicU64::new(0));
    let loads: Vec<_> = (0..2)
        .map(|_| {
            let (map, database) = (Arc::clone(&map), Arc::clone(&database));
            shuttle::thread::spawn(move || {
                let before = map.snapshot();
                let read = database.load(Ordering::SeqCst);
                let since = match snapshot {
                    Snapshot::BeforeReading => before,
                    Snapshot::AfterReading => map.snapshot(),
                };
                map.store(&key(1), id(1), &[], read, 0, since);
            })
        })
        .collect();
    for change in 1..=2 {
        database.store(change, Ordering::SeqCst);
        map.forget(&id(1), Forget::Reload);
        // The change is answered here. From now on nothing older may be served.
        let served = value(&map, 1).unwrap_or(change);
        assert!(
            served >= change,
            "stale: served {served} after change {change}"
        );
    }
    for load in loads {
        load.join().expect("a load does not panic");
    }
    let served = value(&map, 1).unwrap_or(2);
    assert!(served == 2, "stale: served {served} after the last change");
}

/// The same while other keys take the only slot in the shard, so that slots are reused
/// concurrently.
fn race_for_one_place() {
    const OTHERS: [u64; 2] = [10, 20];
    let map = Arc::new(Map::<u64, Scheduled>::new(Bounds {
        entries_max: SHARDS,
        bytes_max: usize::MAX,
    }));
    let beside = |number: u64| MapKey {
        hash: number << 32,
        ..key(number)
    };
    let read = move |map: &Map<u64, Scheduled>, number| {
        map.visit(&beside(number), |found| match found {
            Found::Known(hit) => Some((hit.id, *hit.value)),
            Found::Nothing | Found::Tombstone => None,
        })
    };
    let database = Arc::new(AtomicU64::new(0));
    let load = {
        let (map, database) = (Arc::clone(&map), Arc::clone(&database));
        shuttle::thread::spawn(move || {
            let since = map.snapshot();
            let value = database.load(Ordering::SeqCst);
            map.store(&beside(1), id(1), &[], value, 0, since);
        })
    };
    let others = OTHERS.map(|number| {
        let map = Arc::clone(&map);
        shuttle::thread::spawn(move || {
            map.store(&beside(number), id(number), &[], number, 0, map.snapshot());
            map.prefetch(beside(number).hash);
            let found = read(&map, number);
            assert!(found.is_none_or(|found| found == (id(number), number)));
        })
    });
    for change in 1..=2 {
        database.store(change, Ordering::SeqCst);
        map.forget(&id(1), Forget::Reload);
        let (who, served) = read(&map, 1).unwrap_or((id(1), change));
        assert!(who == id(1) && served >= change, "stale: served {served}");
    }
    for thread in others.into_iter().chain([load]) {
        thread.join().expect("no thread panics");
    }
    let served = read(&map, 1);
    assert!(
        served.is_none_or(|served| served == (id(1), 2)),
        "stale: served {served:?}"
    );
    assert!(map.size().0 <= 1);
    // Every stored record is found by its identifier, and nothing else is.
    for number in [1].into_iter().chain(OTHERS) {
        map.forget(&id(number), Forget::Reload);
    }
    assert_eq!(map.size(), (0, 0));
}

/// A verdict that waits between the look-up of a record and the last check whether it still holds,
/// while the record changes. Once the change was answered, no copy of the old record may hold.
fn race_with_a_copy(forget: fn(&Map<u64, Scheduled>)) {
    let map = Arc::new(Map::<u64, Scheduled>::new(ROOMY));
    put(&map, 1, 0);
    let change = {
        let map = Arc::clone(&map);
        shuttle::thread::spawn(move || forget(&map))
    };
    let since = map.snapshot();
    let copy = value(&map, 1);
    change.join().expect("a change does not panic");
    let holds = copy.is_some() && map.is_unchanged(since, &[id(1)]);
    assert!(!holds, "stale: a copy still holds");
}

/// The order in which a change of an account is recorded.
#[derive(Clone, Copy, PartialEq)]
enum Noted {
    /// The order of the cache.
    GenerationFirst,
    /// The built-in mistake: a load that saw the old account stores it with the new mark.
    MarkFirst,
    /// Another one: a copy that was made in between still holds.
    GenerationOnce,
}

/// A load of a key and a copy of it while its account changes. Every record found afterwards is
/// new, or its mark differs from the account's, and no copy of the old one holds.
fn race_with_an_account(noted: Noted) {
    const OLD: u64 = 0;
    const NEW: u64 = 1;
    let account = AccountId::from_uuid(uuid::Uuid::from_bytes(id(7)));
    let map = Arc::new(Map::<(u64, Mark), Scheduled>::new(ROOMY));
    let marks = Arc::new(AccountMarks::default());
    let database = Arc::new(AtomicU64::new(OLD));
    let load = {
        let (map, marks) = (Arc::clone(&map), Arc::clone(&marks));
        let database = Arc::clone(&database);
        move || {
            let since = map.snapshot();
            let read = database.load(Ordering::SeqCst);
            shuttle::thread::yield_now();
            let mark = marks.mark(account);
            map.store(&key(1), id(1), &[id(7)], (read, mark), 0, since);
        }
    };
    let served = {
        let (map, marks) = (Arc::clone(&map), Arc::clone(&marks));
        move || {
            let found = map.visit(&key(1), |found| match found {
                Found::Known(hit) => Some(*hit.value),
                Found::Nothing | Found::Tombstone => None,
            });
            found.and_then(|(read, mark)| (mark == marks.mark(account)).then_some(read))
        }
    };
    load();
    let load = shuttle::thread::spawn(load);
    let change = {
        let (map, database) = (Arc::clone(&map), Arc::clone(&database));
        shuttle::thread::spawn(move || {
            database.store(NEW, Ordering::SeqCst);
            if noted == Noted::MarkFirst {
                marks.bump(account);
                shuttle::thread::yield_now();
            }
            map.bump(&id(7));
            shuttle::thread::yield_now();
            if noted != Noted::MarkFirst {
                marks.bump(account);
                shuttle::thread::yield_now();
            }
            if noted != Noted::GenerationOnce {
                map.bump(&id(7));
            }
        })
    };
    let since = map.snapshot();
    let copy = served();
    change.join().expect("a change does not panic");
    let holds = copy == Some(OLD) && map.is_unchanged(since, &[id(7)]);
    assert!(!holds, "stale: a copy still holds");
    assert_ne!(served(), Some(OLD), "stale");
    load.join().expect("a load does not panic");
    assert_ne!(served(), Some(OLD), "stale");
}

/// A load that reads the key as gone, a reset, and loads from a database that has lost that. Once
/// "gone" was answered, nothing else ever is.
fn race_with_a_reset() {
    const LOST: u64 = 1;
    let map = Arc::new(Map::<u64, Scheduled>::new(ROOMY));
    let database = Arc::new(AtomicU64::new(GONE));
    let load = |map: &Map<u64, Scheduled>, database: &AtomicU64| {
        let since = map.snapshot();
        let read = database.load(Ordering::SeqCst);
        shuttle::thread::yield_now();
        match map.store(&key(1), id(1), &[], read, 1, since) {
            Stored::Final => GONE,
            Stored::Yes(_) | Stored::Changed => read,
        }
    };
    let failover = {
        let (map, database) = (Arc::clone(&map), Arc::clone(&database));
        shuttle::thread::spawn(move || {
            database.store(LOST, Ordering::SeqCst);
            map.outdate_all();
        })
    };
    let other = {
        let (map, database) = (Arc::clone(&map), Arc::clone(&database));
        shuttle::thread::spawn(move || load(&map, &database))
    };
    let answered = load(&map, &database);
    if answered == GONE {
        assert!(is_gone(&map, 1), "forgotten");
        assert_eq!(load(&map, &database), GONE, "forgotten");
    }
    failover.join().expect("a reset does not panic");
    other.join().expect("a load does not panic");
    if answered == GONE {
        assert_eq!(load(&map, &database), GONE, "forgotten");
        assert!(is_gone(&map, 1), "forgotten");
    }
}

const INTERLEAVINGS: usize = 2_000;

#[test]
fn no_interleaving_with_a_reset_takes_back_what_was_answered_as_gone() {
    // Fewer, because a reset has many steps.
    shuttle::check_random(race_with_a_reset, INTERLEAVINGS / 4);
    shuttle::check_pct(race_with_a_reset, INTERLEAVINGS / 4, 3);
}

#[test]
fn no_interleaving_lets_a_copy_outlive_a_change() {
    let changes: [fn(&Map<u64, Scheduled>); 3] = [
        |map| assert_eq!(map.forget(&id(1), Forget::Reload), None),
        |map| assert_eq!(map.forget(&id(1), Forget::ForEver), None),
        |map| map.outdate_all(),
    ];
    for forget in changes {
        shuttle::check_random(move || race_with_a_copy(forget), INTERLEAVINGS);
    }
}

#[test]
fn no_interleaving_keeps_a_key_of_an_account_that_has_changed() {
    shuttle::check_random(
        || race_with_an_account(Noted::GenerationFirst),
        INTERLEAVINGS,
    );
    shuttle::check_pct(
        || race_with_an_account(Noted::GenerationFirst),
        INTERLEAVINGS,
        3,
    );
}

#[test]
#[should_panic(expected = "stale")]
fn an_account_marked_before_its_generation_is_caught() {
    shuttle::check_random(|| race_with_an_account(Noted::MarkFirst), INTERLEAVINGS);
}

#[test]
#[should_panic(expected = "stale: a copy")]
fn an_account_whose_generation_is_bumped_once_is_caught() {
    shuttle::check_random(
        || race_with_an_account(Noted::GenerationOnce),
        INTERLEAVINGS,
    );
}

#[test]
fn no_interleaving_confuses_records_that_take_each_others_place() {
    shuttle::check_random(race_for_one_place, INTERLEAVINGS);
    shuttle::check_pct(race_for_one_place, INTERLEAVINGS, 3);
}

#[test]
fn no_interleaving_puts_an_old_record_back() {
    shuttle::check_random(|| race(Snapshot::BeforeReading), INTERLEAVINGS);
    shuttle::check_pct(|| race(Snapshot::BeforeReading), INTERLEAVINGS, 3);
}

#[test]
#[should_panic(expected = "stale")]
fn a_snapshot_taken_after_reading_is_caught() {
    shuttle::check_random(|| race(Snapshot::AfterReading), INTERLEAVINGS);
}
