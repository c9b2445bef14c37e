//! Lists of keys: which rows are read through which index, and in which order.
//!
//! SQL selects by what an index is sorted by, and nothing else. Every other filter is examined
//! here, row by row, so that the rows of a page can be counted and a search ends in time. It also
//! means the same thing in every store, because all of them ask [`KeyQuery::covers`].

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use keys_core::{AccountId, CreatedBy, KeyDetails, KeyId, KeyKind, KeyStatus, Timestamp};
use keys_service::ports::{
    EXAMINED_MAX, KeyListing, KeyOrder, KeyQuery, KeySort, ListPosition, ListedKeys, OTHERS_MAX,
    Others, StoreError, day_of,
};
use uuid::Uuid;

use crate::connection::{Connection, Pools, query};
use crate::error::QueryError;
use crate::rows::{self, KeyDetailsRow, kind_code};
use crate::scan::{Bind, Count, Key, Listing, Scan};
use crate::schema::api_key;
use crate::types::{DbId, DbTimestamp, Tolerant};

/// Rows that one statement reads at most.
const CHUNK_MAX: usize = 1_000;

/// Rows that are examined at most to count keys with another status.
const OTHERS_EXAMINED_MAX: usize = OTHERS_MAX as usize;

pub(crate) async fn list(pools: Pools, listing: KeyListing) -> Result<ListedKeys, StoreError> {
    let connection = &mut pools.read().await?;
    let mut page = ListedKeys::default();
    if listing.counts_others() {
        page.others = Some(others(connection, &listing).await?);
    }
    let order = listing.query.order();
    let limit = listing.query.limit as usize;
    let mut reader = Reader {
        connection,
        order,
        left: EXAMINED_MAX,
        chunk: limit + 1,
    };
    // Where the list continues, once the part with that place is reached.
    let mut start = listing.after;
    let mut last = None;
    for number in order.parts() {
        let mut after = match start {
            Some(position) if position.part != *number => continue,
            position => position,
        };
        start = None;
        let Some(part) = Part::of(&listing, *number) else {
            continue;
        };
        loop {
            let (rows, is_end) = reader.read(&part, after).await?;
            // Rows without an identifier have no place to continue after.
            let is_end = is_end || rows.is_empty();
            for row in rows {
                after = Some(row.position);
                if !row.is_selected(&listing) {
                    continue;
                }
                if page.keys.len() >= limit {
                    page.next = last;
                    return Ok(page);
                }
                last = after;
                if row.is_unreadable {
                    page.unreadable.push(row.details.key.id);
                }
                page.keys.push(row.details);
            }
            if is_end {
                break;
            }
            if page.keys.len() >= limit {
                // The next page may be empty, but that is not known.
                page.next = last;
                return Ok(page);
            }
            if reader.left == 0 {
                page.next = after;
                return Ok(page);
            }
        }
    }
    Ok(page)
}

/// Counts the revoked and expired keys that every filter but that of the status matches.
async fn others(connection: &mut Connection, listing: &KeyListing) -> Result<Others, StoreError> {
    let query = listing.query.clone();
    // Revoked keys have no order but that of creation.
    let query = query
        .sort(Some(KeyOrder::new(KeySort::Created, true)))
        .statuses([KeyStatus::Revoked, KeyStatus::Expired]);
    let listing = KeyListing::new(query, listing.now);
    let (mut count, mut is_cut) = (0_u64, false);
    if let Some(scans) = Scans::of_ended(&listing) {
        for scan in scans {
            let found = counted(connection, scan, listing.now).await?;
            count += found.ended;
            is_cut |= found.examined > OTHERS_EXAMINED_MAX as u64;
        }
        return Ok(Others::new(count, is_cut));
    }
    let order = listing.query.order();
    let mut reader = Reader {
        connection,
        order,
        left: OTHERS_EXAMINED_MAX,
        chunk: OTHERS_EXAMINED_MAX,
    };
    if let Some(part) = Part::of(&listing, 0) {
        let (rows, is_end) = reader.read(&part, None).await?;
        is_cut |= !is_end;
        let others = rows.iter().filter(|row| row.is_selected(&listing));
        count += others.count() as u64;
    }
    Ok(Others::new(count, is_cut))
}

/// The result of counting the rows of a scan.
struct Counted {
    /// Rows that were read.
    examined: u64,
    /// Those of them that are revoked or expired.
    ended: u64,
}

async fn counted(
    connection: &mut Connection,
    scan: Scan,
    now: Timestamp,
) -> Result<Counted, QueryError> {
    let limit = i64::try_from(OTHERS_EXAMINED_MAX + 1).expect("it is small");
    let count = Count {
        scan: prepared(connection, scan, true, None, limit),
        now: DbTimestamp(now),
    };
    let (examined, ended): (i64, i64) = query!(connection, |open| (&count).get_result(open))?;
    Ok(Counted {
        examined: u64::try_from(examined).unwrap_or(0),
        ended: u64::try_from(ended).unwrap_or(0),
    })
}

/// Completes a scan by its start and its length.
fn prepared(
    connection: &Connection,
    mut scan: Scan,
    is_descending: bool,
    after: Option<(Bind, DbId)>,
    limit: i64,
) -> Scan {
    scan.is_descending = is_descending;
    scan.after = after;
    scan.limit = limit;
    // PostgreSQL finds the index by itself. SQLite prefers the table, which is sorted by id.
    scan.names_index = match connection {
        #[cfg(feature = "postgres")]
        Connection::Postgres(_) => false,
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(_) => true,
    };
    scan
}

/// A row with its place on the list.
struct Row {
    position: ListPosition,
    details: KeyDetails,
    is_unreadable: bool,
    /// Whether it belongs to the part of the list that was read.
    is_in_part: bool,
}

impl Row {
    fn is_selected(&self, listing: &KeyListing) -> bool {
        let (query, details) = (&listing.query, &self.details);
        self.is_in_part
            && query.covers(details)
            && query.selects_status(details.status(listing.now))
    }
}

/// Reads the rows of a list in chunks.
struct Reader<'a> {
    connection: &'a mut Connection,
    order: KeyOrder,
    /// Rows that may still be examined.
    left: usize,
    /// Rows of the next statement. Grows while few rows match.
    chunk: usize,
}

impl Reader<'_> {
    /// Returns the next rows of a part, in order, and whether they are the last.
    async fn read(
        &mut self,
        part: &Part,
        after: Option<ListPosition>,
    ) -> Result<(Vec<Row>, bool), QueryError> {
        let wanted = self.chunk.min(self.left).clamp(1, CHUNK_MAX + 1);
        self.left = self.left.saturating_sub(wanted);
        self.chunk = (self.chunk * 4).clamp(100, CHUNK_MAX);
        let mut rows = Vec::with_capacity(wanted);
        let mut is_end = true;
        for scan in &part.scans.0 {
            let found = self.run(scan.clone(), after, wanted).await?;
            is_end &= found.len() < wanted;
            rows.extend(found.into_iter().filter_map(|found| self.row(part, found)));
        }
        if part.scans.0.len() > 1 {
            let by_place = part.scans.has_places();
            rows.sort_by(|one, other| {
                let (one, other) = (one.position, other.position);
                let order = if by_place {
                    one.cmp(&other)
                } else {
                    one.id.cmp(&other.id)
                };
                if self.order.is_descending {
                    order.reverse()
                } else {
                    order
                }
            });
            is_end &= rows.len() <= wanted;
            rows.truncate(wanted);
        }
        Ok((rows, is_end))
    }

    async fn run(
        &mut self,
        scan: Scan,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<Vec<FoundRow>, QueryError> {
        let after = after.map(|position| {
            let place = match scan.key {
                Key::Id => Bind::None,
                Key::CreatedAt | Key::ExpiresAt => {
                    let time = Timestamp::from_unix_micros(position.place);
                    Bind::Moment(DbTimestamp(time))
                }
                Key::LastUsedDay => Bind::Day(i32::try_from(position.place).unwrap_or(i32::MAX)),
            };
            (place, DbId(position.id.as_uuid()))
        });
        let limit = i64::try_from(limit).expect("it is small");
        let scan = prepared(
            self.connection,
            scan,
            self.order.is_descending,
            after,
            limit,
        );
        query!(&mut *self.connection, |open| Listing {
            selection: (KeyDetailsRow::as_select(), api_key::last_used_day),
            scan: &scan,
        }
        .load(open))
    }

    /// `None` if not even the identifier can be read.
    fn row(&self, part: &Part, (row, day): FoundRow) -> Option<Row> {
        let (details, is_unreadable) = match row.read() {
            Ok(details) => (details, false),
            Err(corrupt) => {
                rows::log(&corrupt.row);
                (KeyDetails::new(corrupt.shown?), true)
            }
        };
        let day = day.and_then(|day| day.0.ok());
        let mut position = self.order.position(&details, day);
        let is_in_part = position.part == part.number;
        if !is_in_part {
            let created = details.key.created_at.unix_micros();
            position = ListPosition::new(part.number, created, details.key.id);
        }
        Some(Row {
            position,
            details,
            is_unreadable,
            is_in_part,
        })
    }
}

/// A key, and the day of its last use as it is stored.
type FoundRow = (KeyDetailsRow, Option<Tolerant<i32>>);

/// A part of a list: rows of one or two scans in one order.
struct Part {
    number: u8,
    scans: Scans,
}

impl Part {
    /// Returns a part of the list. `None` if no key of it can be selected.
    fn of(listing: &KeyListing, number: u8) -> Option<Self> {
        let query = &listing.query;
        let scans = match (query.order().sort, number) {
            (KeySort::Created, _) => Some(Scans::by_creation(query)),
            (KeySort::LastUsed, 0) => Some(Scans::never_used(query)),
            (KeySort::LastUsed, _) => Some(Scans::by_last_use(query)),
            (KeySort::Expires, 0) => Some(Scans::by_expiry(listing)),
            (KeySort::Expires, _) => Scans::without_expiry(query),
        }?;
        Some(Self { number, scans })
    }
}

/// Scans in the same order, whose rows are merged.
struct Scans(Vec<Scan>);

impl IntoIterator for Scans {
    type Item = Scan;
    type IntoIter = std::vec::IntoIter<Scan>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Scans {
    /// Whether rows are sorted by a value, and by the identifier only among equal ones.
    fn has_places(&self) -> bool {
        self.0.iter().all(|scan| scan.key != Key::Id)
    }

    /// Keys by creation, through the index of the narrowest filter.
    fn by_creation(query: &KeyQuery) -> Self {
        let mut scans = match (&query.prefix, query.account, &query.created_by) {
            (Some(prefix), ..) if query.kind == KeyKind::Account => {
                vec![with_prefix(prefix.as_str())]
            }
            (_, Some(account), _) => of_owner(Some(account), query),
            (_, None, _) if query.kind == KeyKind::Operator => of_owner(None, query),
            (_, None, Some(CreatedBy::Operator(id))) => vec![made_by(*id, query.kind)],
            (_, None, Some(CreatedBy::Subject(subject))) => {
                vec![of_subject(subject.as_str(), query.kind)]
            }
            (_, None, None) => by_revocation(query, live(), revoked()),
        };
        for scan in &mut scans {
            bound_creation(scan, query);
        }
        Self(scans)
    }

    fn never_used(query: &KeyQuery) -> Self {
        let mut scan = match query.account {
            Some(account) => account_live(account).with("last_used_day is null", Bind::None),
            None => Scan::new("api_key_used")
                .with(LIVE, Bind::None)
                .with("last_used_day is null", Bind::None)
                // PostgreSQL does not know that all days are the same.
                .ordered(
                    Key::Id,
                    ["last_used_day, id", "last_used_day desc, id desc"],
                ),
        };
        bound_creation(&mut scan, query);
        // It counts as used when it was created.
        if let (Some(before), Key::Id) = (query.last_used_before, scan.key) {
            scan.bound("id < ", Bind::Id(first_id_after(before)));
        }
        Self(vec![scan])
    }

    fn by_last_use(query: &KeyQuery) -> Self {
        let mut scan = match query.account {
            // Sorted for each page, because no index has this order within an account, which has
            // few enough keys. The sum keeps planners from reading the keys of all accounts in this
            // order instead.
            Some(account) => account_live(account)
                .with("last_used_day is not null", Bind::None)
                .ordered(
                    Key::LastUsedDay,
                    ["last_used_day + 0, id", "last_used_day + 0 desc, id desc"],
                ),
            None => Scan::new("api_key_used")
                .with(LIVE, Bind::None)
                .with("last_used_day is not null", Bind::None)
                .ordered(
                    Key::LastUsedDay,
                    ["last_used_day, id", "last_used_day desc, id desc"],
                ),
        };
        if let Some(before) = query.last_used_before {
            scan.bound("last_used_day <= ", Bind::Day(day_of(before)));
        }
        Self(vec![scan])
    }

    fn by_expiry(listing: &KeyListing) -> Self {
        let query = &listing.query;
        let mut scan = match query.account {
            Some(account) => {
                Scan::new("api_key_ending").with("account_id = ", Bind::Id(DbId(account.as_uuid())))
            }
            None => Scan::new("api_key_expiry"),
        }
        .with(LIVE, Bind::None)
        .with("expires_at is not null", Bind::None)
        .ordered(
            Key::ExpiresAt,
            ["expires_at, id", "expires_at desc, id desc"],
        );
        let now = Bind::Moment(DbTimestamp(listing.now));
        if !query.selects_status(KeyStatus::Expired) {
            scan.bound("expires_at > ", now);
        } else if query.statuses == [KeyStatus::Expired] {
            scan.bound("expires_at <= ", now);
        }
        if let Some(before) = query.expires_before {
            scan.bound("expires_at < ", Bind::Moment(DbTimestamp(before)));
        }
        Self(vec![scan])
    }

    /// Keys that never expire. `None` if the query selects none of them. The index also has those
    /// that expire, which are passed over.
    fn without_expiry(query: &KeyQuery) -> Option<Self> {
        if query.expires_before.is_some() || query.statuses == [KeyStatus::Expired] {
            return None;
        }
        let mut scan = match query.account {
            Some(account) => account_live(account),
            None => live(),
        };
        bound_creation(&mut scan, query);
        Some(Self(vec![scan]))
    }

    /// Returns scans that have the revoked and expired keys of the list, if SQL can select them.
    /// `None` if rows must be examined one by one.
    fn of_ended(listing: &KeyListing) -> Option<Self> {
        let query = &listing.query;
        let is_plain = query.name.is_none()
            && query.scope.is_none()
            && query.created_after.is_none()
            && query.created_before.is_none()
            && query.last_used_before.is_none()
            && query.expires_before.is_none()
            && query.metadata.is_empty();
        let narrow = [
            query.prefix.is_some(),
            query.account.is_some(),
            query.created_by.is_some(),
        ];
        if !is_plain || narrow.into_iter().filter(|is_set| *is_set).count() > 1 {
            return None;
        }
        if query.kind != KeyKind::Account || query.prefix.is_some() || query.created_by.is_some() {
            return Some(Self::by_creation(query));
        }
        let expired = query.clone().statuses([KeyStatus::Expired]);
        let expired = KeyListing::new(expired, listing.now);
        let revoked = query.clone().statuses([KeyStatus::Revoked]);
        let mut scans = Self::by_expiry(&expired).0;
        scans.extend(Self::by_creation(&revoked).0);
        Some(Self(scans))
    }
}

/// Condition of the indexes of keys of accounts that are not revoked, as it is written in them.
const LIVE: &str = "kind = 2 and revoked_at is null";

const BY_ID: [&str; 2] = ["id", "id desc"];

/// The order of the indexes by owner, from its end and from its start. PostgreSQL reads the keys of
/// operators, whose owner is null, in this order only if the owner is named.
const BY_OWNER: [&str; 2] = [
    "account_id desc, created_at, id",
    "account_id, created_at desc, id desc",
];

fn live() -> Scan {
    Scan::new("api_key_live")
        .with(LIVE, Bind::None)
        .ordered(Key::Id, BY_ID)
}

fn revoked() -> Scan {
    Scan::new("api_key_revoked")
        .with("kind = 2 and revoked_at is not null", Bind::None)
        .ordered(Key::Id, BY_ID)
}

fn with_prefix(prefix: &str) -> Scan {
    Scan::new("api_key_prefix")
        .with("kind = 2", Bind::None)
        .with("shown_prefix = ", Bind::Text(prefix.to_owned()))
        .ordered(Key::Id, BY_ID)
}

fn made_by(id: KeyId, kind: KeyKind) -> Scan {
    Scan::new("api_key_creator")
        .with("created_by_id = ", Bind::Id(DbId(id.as_uuid())))
        .with("kind = ", Bind::Kind(kind_code(kind)))
        .ordered(Key::Id, BY_ID)
}

fn of_subject(subject: &str, kind: KeyKind) -> Scan {
    Scan::new("api_key_subject")
        .with("subject = ", Bind::Text(subject.to_owned()))
        .with("kind = ", Bind::Kind(kind_code(kind)))
        .ordered(Key::Id, BY_ID)
}

fn account_live(account: AccountId) -> Scan {
    Scan::new("api_key_owner")
        .with("account_id = ", Bind::Id(DbId(account.as_uuid())))
        .with(LIVE, Bind::None)
        .ordered(Key::CreatedAt, BY_OWNER)
}

/// Keys of an account, or operator keys.
fn of_owner(account: Option<AccountId>, query: &KeyQuery) -> Vec<Scan> {
    let scan = |index, condition| {
        let scan = match account {
            Some(account) => {
                Scan::new(index).with("account_id = ", Bind::Id(DbId(account.as_uuid())))
            }
            None => Scan::new(index).with("account_id is null", Bind::None),
        };
        scan.with("kind = ", Bind::Kind(kind_code(query.kind)))
            .with(condition, Bind::None)
            .ordered(Key::CreatedAt, BY_OWNER)
    };
    by_revocation(
        query,
        scan("api_key_owner", "revoked_at is null"),
        scan("api_key_owner_revoked", "revoked_at is not null"),
    )
}

/// Returns the scans that have keys of the selected statuses.
fn by_revocation(query: &KeyQuery, live: Scan, revoked: Scan) -> Vec<Scan> {
    let is_live = |status: &KeyStatus| *status != KeyStatus::Revoked;
    let mut scans = Vec::with_capacity(2);
    if KeyStatus::ALL
        .iter()
        .any(|status| is_live(status) && query.selects_status(*status))
    {
        scans.push(live);
    }
    if query.selects_status(KeyStatus::Revoked) {
        scans.push(revoked);
    }
    scans
}

/// Limits a scan in the order of creation to the times of the query.
fn bound_creation(scan: &mut Scan, query: &KeyQuery) {
    if scan.key == Key::CreatedAt {
        let moment = |time| Bind::Moment(DbTimestamp(time));
        if let Some(after) = query.created_after {
            scan.bound("created_at >= ", moment(after));
        }
        if let Some(before) = query.created_before {
            scan.bound("created_at < ", moment(before));
        }
    } else {
        if let Some(after) = query.created_after {
            scan.bound("id >= ", Bind::Id(first_id_of(after.unix_millis())));
        }
        if let Some(before) = query.created_before {
            scan.bound("id < ", Bind::Id(first_id_after(before)));
        }
    }
}

/// Returns the lowest identifier of a record that was created in this millisecond.
fn first_id_of(millis: i64) -> DbId {
    let millis = u128::try_from(millis).unwrap_or(0);
    DbId(Uuid::from_u128(millis << 80))
}

/// Returns an identifier above those of all records that were created by this time.
fn first_id_after(time: Timestamp) -> DbId {
    first_id_of(time.unix_millis().saturating_add(1))
}
