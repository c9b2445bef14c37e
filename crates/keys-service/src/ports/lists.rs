//! Lists of keys: queries, orders, positions and pages.

use std::fmt;
use std::str::FromStr;

use keys_core::{
    AccountId, AuditActor, CreatedBy, ExternalId, KeyDetails, KeyId, KeyKind, KeyStatus, Metadata,
    Scope, ShownPrefix, Timestamp,
};
use sha2::{Digest as _, Sha256};

/// Rows that one page examines at most. A page that ends for this reason may be short, or even
/// empty, and has a [`next`](ListedKeys::next) all the same.
pub const EXAMINED_MAX: usize = 10_000;

/// Keys with another status that are counted at most.
pub const OTHERS_MAX: u32 = 1_000;

/// Maximum number of keys of a page.
pub const KEYS_PER_PAGE_MAX: u32 = 1_000;

/// Maximum number of characters of a text that names are searched for.
pub const NAME_PART_MAX_CHARS: usize = 255;

/// A query of keys with everything that is stored about them. Each filter that is set must match.
///
/// ```
/// use keys_core::KeyStatus;
/// use keys_service::ports::KeyQuery;
///
/// // The first 100 active keys that have not been used since a time, the longest unused first.
/// let since = keys_core::Timestamp::parse_rfc3339("2026-01-01T00:00:00Z")?;
/// let query = KeyQuery::new(100)
///     .statuses([KeyStatus::Active])
///     .last_used_before(Some(since));
/// assert_eq!(query.order().to_string(), "last_used_at");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
#[non_exhaustive]
pub struct KeyQuery {
    /// The kind of the keys.
    pub kind: KeyKind,
    /// Only keys of this account.
    pub account: Option<AccountId>,
    /// Only keys of the account with this external identifier.
    pub external_id: Option<ExternalId>,
    /// Only keys with exactly this shown prefix.
    pub prefix: Option<ShownPrefix>,
    /// Only keys with this text in their name, without regard to case. Requires an account.
    pub name: Option<String>,
    /// Only keys with one of these statuses, sorted. Empty for those that have not ended: active,
    /// rotating and disabled ones.
    pub statuses: Vec<KeyStatus>,
    /// Only keys that have this scope.
    pub scope: Option<Scope>,
    /// Only keys of this creator.
    pub created_by: Option<CreatedBy>,
    /// Only keys created at this time or later.
    pub created_after: Option<Timestamp>,
    /// Only keys created before this time.
    pub created_before: Option<Timestamp>,
    /// Only keys that were not used at this time or later. A key that was never used counts as
    /// used when it was created.
    pub last_used_before: Option<Timestamp>,
    /// Only keys whose expiry is before this time.
    pub expires_before: Option<Timestamp>,
    /// Only keys with all of these names and values. Requires an account.
    pub metadata: Metadata,
    /// The order. `None` chooses the one that the filters are fast in; see [`order`](Self::order).
    pub sort: Option<KeyOrder>,
    /// Only keys after the page that had this cursor.
    pub after: Option<KeyCursor>,
    /// Maximum number of keys, at most [`KEYS_PER_PAGE_MAX`].
    pub limit: u32,
}

impl KeyQuery {
    /// Returns a query of the first `limit` keys of accounts that have not ended, newest first.
    pub fn new(limit: u32) -> Self {
        Self {
            kind: KeyKind::Account,
            account: None,
            external_id: None,
            prefix: None,
            name: None,
            statuses: Vec::new(),
            scope: None,
            created_by: None,
            created_after: None,
            created_before: None,
            last_used_before: None,
            expires_before: None,
            metadata: Metadata::default(),
            sort: None,
            after: None,
            limit: limit.clamp(1, KEYS_PER_PAGE_MAX),
        }
    }

    /// Selects keys of this kind instead of accounts' keys.
    pub fn kind(mut self, kind: KeyKind) -> Self {
        self.kind = kind;
        self
    }

    /// Selects the keys of this account. `None` selects those of all.
    pub fn account(mut self, account: Option<AccountId>) -> Self {
        self.account = account;
        self
    }

    /// Selects the keys of the account with this external identifier. `None` selects those of all.
    pub fn external_id(mut self, external_id: Option<ExternalId>) -> Self {
        self.external_id = external_id;
        self
    }

    /// Selects keys with exactly this shown prefix.
    pub fn prefix(mut self, prefix: Option<ShownPrefix>) -> Self {
        self.prefix = prefix;
        self
    }

    /// Selects keys with this text in their name, without regard to case.
    pub fn name(mut self, part: Option<String>) -> Self {
        self.name = part;
        self
    }

    /// Selects keys with one of these statuses. None at all selects those that have not ended.
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = KeyStatus>) -> Self {
        self.statuses = statuses.into_iter().collect();
        self.statuses.sort_unstable();
        self.statuses.dedup();
        self
    }

    /// Selects keys that have this scope.
    pub fn scope(mut self, scope: Option<Scope>) -> Self {
        self.scope = scope;
        self
    }

    /// Selects keys of this creator.
    pub fn created_by(mut self, creator: Option<CreatedBy>) -> Self {
        self.created_by = creator;
        self
    }

    /// Selects keys created at this time or later.
    pub fn created_after(mut self, time: Option<Timestamp>) -> Self {
        self.created_after = time;
        self
    }

    /// Selects keys created before this time.
    pub fn created_before(mut self, time: Option<Timestamp>) -> Self {
        self.created_before = time;
        self
    }

    /// Selects keys that were not used at this time or later.
    pub fn last_used_before(mut self, time: Option<Timestamp>) -> Self {
        self.last_used_before = time;
        self
    }

    /// Selects keys whose expiry is before this time.
    pub fn expires_before(mut self, time: Option<Timestamp>) -> Self {
        self.expires_before = time;
        self
    }

    /// Selects keys with all of these names and values.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sets the order. `None` chooses the one that the filters are fast in.
    pub fn sort(mut self, order: Option<KeyOrder>) -> Self {
        self.sort = order;
        self
    }

    /// Continues after the page that had this cursor. `None` starts with the first key.
    pub fn after(mut self, cursor: Option<KeyCursor>) -> Self {
        self.after = cursor;
        self
    }

    /// Returns the order of the keys. Unless one was set: newest first; with a filter by last use
    /// or expiry, and none that an account, a prefix or a creator narrows down, in the order of
    /// that; expired keys alone in the reverse order of their expiry.
    #[must_use]
    pub fn order(&self) -> KeyOrder {
        if let Some(order) = self.sort {
            return order;
        }
        let is_narrow = self.names_account()
            || self.prefix.is_some()
            || self.created_by.is_some()
            || self.kind != KeyKind::Account
            || self.statuses.contains(&KeyStatus::Revoked);
        let (sort, is_descending) = if is_narrow {
            (KeySort::Created, true)
        } else if self.last_used_before.is_some() {
            (KeySort::LastUsed, false)
        } else if self.expires_before.is_some() {
            (KeySort::Expires, false)
        } else if self.statuses == [KeyStatus::Expired] {
            (KeySort::Expires, true)
        } else {
            (KeySort::Created, true)
        };
        KeyOrder::new(sort, is_descending)
    }

    /// Checks that the query can be answered without reading the keys of all accounts.
    ///
    /// # Errors
    /// The filter that cannot.
    pub fn check(&self) -> Result<(), UnboundedFilter> {
        let order = self.order().sort;
        let is_of_many = !self.names_account() && self.kind != KeyKind::Operator;
        if is_of_many && self.name.is_some() {
            return Err(UnboundedFilter::Name);
        }
        if is_of_many && !self.metadata.is_empty() {
            return Err(UnboundedFilter::Metadata);
        }
        let has_subject = matches!(self.created_by, Some(CreatedBy::Subject(_)));
        if is_of_many && self.kind == KeyKind::Session && !has_subject {
            return Err(UnboundedFilter::Kind);
        }
        if order != KeySort::Created && self.kind != KeyKind::Account {
            return Err(UnboundedFilter::Sort);
        }
        if order != KeySort::Created && self.statuses.contains(&KeyStatus::Revoked) {
            return Err(UnboundedFilter::Status);
        }
        Ok(())
    }

    /// Returns whether the query selects the keys of one account.
    #[must_use]
    pub fn names_account(&self) -> bool {
        self.account.is_some() || self.external_id.is_some()
    }

    /// Returns whether keys of this status are selected.
    #[must_use]
    pub fn selects_status(&self, status: KeyStatus) -> bool {
        if self.statuses.is_empty() {
            !status.is_ended()
        } else {
            self.statuses.contains(&status)
        }
    }

    /// Returns whether every filter except that of the status matches. The filter by external
    /// identifier is not examined, because it was replaced by one by account before.
    #[must_use]
    pub fn covers(&self, details: &KeyDetails) -> bool {
        let key = &details.key;
        let is_after = |bound: Option<Timestamp>, time| bound.is_none_or(|bound| time >= bound);
        let is_before = |bound: Option<Timestamp>, time| bound.is_none_or(|bound| time < bound);
        key.kind == self.kind
            && self.account.is_none_or(|id| key.account_id == Some(id))
            && self
                .prefix
                .as_ref()
                .is_none_or(|prefix| key.shown_prefix == *prefix)
            && self
                .scope
                .as_ref()
                .is_none_or(|one| key.scopes.contains(one))
            && self
                .created_by
                .as_ref()
                .is_none_or(|creator| is_made_by(details, creator))
            && is_after(self.created_after, key.created_at)
            && is_before(self.created_before, key.created_at)
            && is_before(
                self.last_used_before,
                key.last_used_at.unwrap_or(key.created_at),
            )
            && self
                .expires_before
                .is_none_or(|bound| key.expires_at.is_some_and(|end| end < bound))
            && self.has_name(details)
            && (self.metadata.iter()).all(|(name, value)| details.metadata.get(name) == Some(value))
    }

    fn has_name(&self, details: &KeyDetails) -> bool {
        let Some(part) = &self.name else {
            return true;
        };
        let name = details.key.name.as_ref();
        name.is_some_and(|name| {
            let name = name.as_str();
            name.contains(part) || name.to_lowercase().contains(&part.to_lowercase())
        })
    }

    /// Returns a digest of everything that decides which keys are on the list, and their order.
    fn fingerprint(&self) -> u64 {
        // Debug texts are unambiguous: strings in them are quoted. A cursor of a program with other
        // texts is refused, and the client starts with the first page again.
        let text = format!(
            "{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}",
            self.kind,
            self.account,
            self.prefix,
            self.name,
            self.statuses,
            self.scope,
            self.created_by,
            self.created_after,
            self.created_before,
            self.last_used_before,
            self.expires_before,
            self.metadata,
            self.order(),
        );
        let digest: [u8; 32] = Sha256::digest(text).into();
        let start = digest.first_chunk().copied();
        u64::from_be_bytes(start.unwrap_or_default())
    }

    /// Returns the cursor of the page after `position`. The filter by external identifier must have
    /// been replaced by one by account.
    #[must_use]
    pub fn cursor(&self, position: ListPosition) -> KeyCursor {
        KeyCursor {
            fingerprint: self.fingerprint(),
            position,
        }
    }

    /// Returns the position after which the list continues. `None` starts with the first key.
    ///
    /// # Errors
    /// If the cursor belongs to a list with other filters or another order.
    pub fn start(&self) -> Result<Option<ListPosition>, ForeignCursor> {
        match self.after {
            Some(cursor) if cursor.fingerprint != self.fingerprint() => Err(ForeignCursor),
            cursor => Ok(cursor.map(|cursor| cursor.position)),
        }
    }
}

fn is_made_by(details: &KeyDetails, creator: &CreatedBy) -> bool {
    match creator {
        CreatedBy::Operator(id) => {
            let kind = KeyKind::Operator;
            details.created_by == Some(AuditActor::Credential { kind, id: *id })
        }
        CreatedBy::Subject(subject) => details.key.subject.as_ref() == Some(subject),
    }
}

/// A field that keys are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: every store must decide for each"
)]
pub enum KeySort {
    /// The time of creation.
    Created,
    /// The day of the last use in UTC. Keys that were never used come before all others.
    LastUsed,
    /// The expiry. Keys that never expire come after all others.
    Expires,
}

/// The order of a list of keys, ties by identifier: `created_at`, `last_used_at` or `expires_at`,
/// with `-` in front for the reverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct KeyOrder {
    /// The field.
    pub sort: KeySort,
    /// Whether the latest comes first.
    pub is_descending: bool,
}

impl KeyOrder {
    /// All orders by name.
    pub const ALL: [(&'static str, Self); 6] = [
        ("created_at", Self::new(KeySort::Created, false)),
        ("-created_at", Self::new(KeySort::Created, true)),
        ("last_used_at", Self::new(KeySort::LastUsed, false)),
        ("-last_used_at", Self::new(KeySort::LastUsed, true)),
        ("expires_at", Self::new(KeySort::Expires, false)),
        ("-expires_at", Self::new(KeySort::Expires, true)),
    ];

    /// Joins a field and a direction.
    #[must_use]
    pub const fn new(sort: KeySort, is_descending: bool) -> Self {
        Self {
            sort,
            is_descending,
        }
    }

    /// Returns the position of a key in lists of this order. `day` is the day of its last use.
    #[must_use]
    pub fn position(self, details: &KeyDetails, day: Option<i32>) -> ListPosition {
        let key = &details.key;
        let created = (0, key.created_at.unix_micros());
        let (part, place) = match self.sort {
            KeySort::Created => created,
            KeySort::LastUsed => day.map_or(created, |day| (1, day.into())),
            KeySort::Expires => match key.expires_at {
                Some(end) => (0, end.unix_micros()),
                None => (1, created.1),
            },
        };
        ListPosition::new(part, place, key.id)
    }

    /// Returns the parts of the list in the order in which they are read.
    #[must_use]
    pub fn parts(self) -> &'static [u8] {
        match (self.sort, self.is_descending) {
            (KeySort::Created, _) => &[0],
            (_, false) => &[0, 1],
            (_, true) => &[1, 0],
        }
    }
}

impl fmt::Display for KeyOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Self::ALL.iter();
        let name = all.find_map(|(name, order)| (order == self).then_some(*name));
        f.write_str(name.unwrap_or_default())
    }
}

impl FromStr for KeyOrder {
    type Err = UnknownKeyOrder;

    fn from_str(text: &str) -> Result<Self, UnknownKeyOrder> {
        let mut all = Self::ALL.iter();
        all.find_map(|(name, order)| (*name == text).then_some(*order))
            .ok_or(UnknownKeyOrder)
    }
}

/// Error returned when a text is not an order of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an order is {}", KeyOrder::ALL.map(|(name, _)| name).join(", "))]
#[non_exhaustive]
pub struct UnknownKeyOrder;

/// Returns the day of a time, in days since 1970 in UTC.
#[must_use]
pub fn day_of(time: Timestamp) -> i32 {
    const MICROS_PER_DAY: i64 = 86_400_000_000;
    let day = time.unix_micros().div_euclid(MICROS_PER_DAY);
    // Every time is within ten thousand years, so this never fails.
    i32::try_from(day).unwrap_or(i32::MAX)
}

/// The place of a key in a list. The list continues with the keys after it, whether or not the key
/// is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ListPosition {
    /// The part of the list: keys without the value that sorts are in a part of their own.
    pub part: u8,
    /// The value that sorts.
    pub place: i64,
    /// The key.
    pub id: KeyId,
}

impl ListPosition {
    /// Joins part, value and key.
    #[must_use]
    pub const fn new(part: u8, place: i64, id: KeyId) -> Self {
        Self { part, place, id }
    }
}

/// The cursor of the next page of a list. It belongs to the filters and the order of that list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyCursor {
    fingerprint: u64,
    position: ListPosition,
}

impl KeyCursor {
    /// Length of the text.
    const LEN: usize = 16 + 1 + 16 + keys_core::ID_LEN;
}

impl fmt::Display for KeyCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListPosition { part, place, id } = self.position;
        write!(f, "{:016x}{part:x}{place:016x}{id}", self.fingerprint)
    }
}

impl FromStr for KeyCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        if text.len() != Self::LEN || !text.is_ascii() {
            return Err(InvalidCursor);
        }
        let number = |text: &str| {
            let digits = text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            let number = digits.then(|| u64::from_str_radix(text, 16).ok());
            number.flatten().ok_or(InvalidCursor)
        };
        let (fingerprint, rest) = text.split_at(16);
        let (part, rest) = rest.split_at(1);
        let (place, id) = rest.split_at(16);
        let part = u8::try_from(number(part)?).map_err(|_| InvalidCursor)?;
        let id = id.parse().map_err(|_| InvalidCursor)?;
        Ok(Self {
            fingerprint: number(fingerprint)?,
            position: ListPosition::new(part, number(place)?.cast_signed(), id),
        })
    }
}

/// Error returned when a text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is the `next_cursor` of another page")]
#[non_exhaustive]
pub struct InvalidCursor;

/// Error returned when a cursor belongs to another list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor belongs to a list with other filters or another order")]
#[non_exhaustive]
pub struct ForeignCursor;

/// A filter that could only be answered by reading the keys of all accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnboundedFilter {
    /// A text in names.
    #[error("a search in names needs an account")]
    Name,
    /// Metadata.
    #[error("a search in metadata needs an account")]
    Metadata,
    /// Sessions.
    #[error("sessions are listed by account or by subject")]
    Kind,
    /// An order of keys other than those of accounts.
    #[error("only keys of accounts are sorted by last use or expiry")]
    Sort,
    /// Revoked keys in another order than that of creation.
    #[error("revoked keys are sorted by creation only")]
    Status,
    /// Another order than that of creation for an account with more than [`EXAMINED_MAX`] keys.
    #[error("an account with more than 10000 keys is sorted by creation only")]
    AccountTooLarge,
}

/// A query with everything that a store needs to answer it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KeyListing {
    /// The query. Has no external identifier.
    pub query: KeyQuery,
    /// The position after which the list continues. `None` starts with the first key.
    pub after: Option<ListPosition>,
    /// The time at which statuses are judged.
    pub now: Timestamp,
}

impl KeyListing {
    /// Creates a listing of `query` that starts with the first key.
    #[must_use]
    pub const fn new(query: KeyQuery, now: Timestamp) -> Self {
        Self {
            query,
            after: None,
            now,
        }
    }

    /// Continues after a position.
    #[must_use]
    pub fn after(mut self, position: Option<ListPosition>) -> Self {
        self.after = position;
        self
    }

    /// Returns whether keys with another status are counted: on the first page, if the query names
    /// no status.
    #[must_use]
    pub fn counts_others(&self) -> bool {
        self.query.statuses.is_empty() && self.after.is_none()
    }
}

/// One page of a list of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ListedKeys {
    /// The keys.
    pub keys: Vec<KeyDetails>,
    /// Those of `keys` whose rows cannot be read. Such an entry has the columns that can be read,
    /// and a harmless value in place of each other one. Its key is always refused.
    pub unreadable: Vec<KeyId>,
    /// The position after which the next page begins. `None` if there is none.
    pub next: Option<ListPosition>,
    /// Revoked and expired keys that every other filter matches. `None` unless
    /// [`KeyListing::counts_others`].
    pub others: Option<Others>,
}

/// A number of keys, counted up to a maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Others {
    /// The number, at most [`OTHERS_MAX`].
    pub count: u32,
    /// Whether there may be more.
    pub more: bool,
}

impl Others {
    /// Returns a number, cut off at [`OTHERS_MAX`]. `more` says that not all rows were examined.
    #[must_use]
    pub fn new(count: u64, more: bool) -> Self {
        let kept = u32::try_from(count).map_or(OTHERS_MAX, |count| count.min(OTHERS_MAX));
        Self {
            count: kept,
            more: more || count > kept.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp::from_unix_micros(1_767_268_800_000_000);

    fn position() -> ListPosition {
        let id = KeyId::generate(NOON, &mut getrandom::SysRng).unwrap();
        ListPosition::new(1, -7, id)
    }

    #[test]
    fn cursor_is_read_back_and_any_other_text_is_refused() {
        let query = KeyQuery::new(10).scope(Some("orders:read".parse().unwrap()));
        let cursor = query.cursor(position());
        let text = cursor.to_string();
        assert_eq!(text.parse(), Ok(cursor));
        for wrong in [
            "",
            "x",
            &text[1..],
            &format!("{text}0"),
            &text.to_uppercase(),
            &text.replacen(|c: char| c.is_ascii_digit(), "+", 1),
            &"é".repeat(KeyCursor::LEN / 2),
        ] {
            assert_eq!(wrong.parse::<KeyCursor>(), Err(InvalidCursor), "{wrong}");
        }
    }

    #[test]
    fn cursor_belongs_to_the_filters_and_the_order_of_its_list_and_to_any_limit() {
        let query = || KeyQuery::new(10).statuses([KeyStatus::Active]);
        let cursor = query().cursor(position());
        let started = |other: KeyQuery| other.after(Some(cursor)).start();
        assert_eq!(started(query()), Ok(Some(position_of(cursor))));
        assert_eq!(
            started(KeyQuery::new(99).statuses([KeyStatus::Active])),
            Ok(Some(position_of(cursor)))
        );
        let text = || Some("a".to_owned());
        for other in [
            KeyQuery::new(10),
            query().statuses([KeyStatus::Active, KeyStatus::Disabled]),
            query().name(text()),
            query().kind(KeyKind::Session),
            query().created_after(Some(NOON)),
            query().created_before(Some(NOON)),
            query().last_used_before(Some(NOON)),
            query().expires_before(Some(NOON)),
            query().sort(Some("created_at".parse().unwrap())),
            query().created_by(Some("subject:a".parse().unwrap())),
            query().metadata(Metadata::new([("a", "b")]).unwrap()),
        ] {
            assert_eq!(started(other), Err(ForeignCursor));
        }
    }

    fn position_of(cursor: KeyCursor) -> ListPosition {
        cursor.position
    }

    #[test]
    fn unbounded_filters_are_refused_unless_an_account_is_named() {
        let account = AccountId::generate(NOON, &mut getrandom::SysRng).unwrap();
        let name = || KeyQuery::new(1).name(Some("a".to_owned()));
        let metadata = || KeyQuery::new(1).metadata(Metadata::new([("a", "b")]).unwrap());
        let sessions = || KeyQuery::new(1).kind(KeyKind::Session);
        assert_eq!(name().check(), Err(UnboundedFilter::Name));
        assert_eq!(metadata().check(), Err(UnboundedFilter::Metadata));
        assert_eq!(sessions().check(), Err(UnboundedFilter::Kind));
        for query in [name(), metadata(), sessions()] {
            assert_eq!(query.clone().account(Some(account)).check(), Ok(()));
            let external_id = Some("a".parse().unwrap());
            assert_eq!(query.external_id(external_id).check(), Ok(()));
        }
        let by_use = "last_used_at".parse().ok();
        let revoked = KeyQuery::new(1).statuses([KeyStatus::Revoked]);
        assert_eq!(
            revoked.clone().sort(by_use).check(),
            Err(UnboundedFilter::Status)
        );
        assert_eq!(revoked.check(), Ok(()));
        let operators = KeyQuery::new(1).kind(KeyKind::Operator);
        assert_eq!(
            operators.clone().sort(by_use).check(),
            Err(UnboundedFilter::Sort)
        );
        assert_eq!(operators.name(Some("a".to_owned())).check(), Ok(()));
    }

    #[test]
    fn order_follows_the_filter_that_has_an_index() {
        let account = AccountId::generate(NOON, &mut getrandom::SysRng).unwrap();
        for (query, order) in [
            (KeyQuery::new(1), "-created_at"),
            (
                KeyQuery::new(1).last_used_before(Some(NOON)),
                "last_used_at",
            ),
            (KeyQuery::new(1).expires_before(Some(NOON)), "expires_at"),
            (
                KeyQuery::new(1).statuses([KeyStatus::Expired]),
                "-expires_at",
            ),
            (
                KeyQuery::new(1)
                    .expires_before(Some(NOON))
                    .account(Some(account)),
                "-created_at",
            ),
            (
                KeyQuery::new(1)
                    .expires_before(Some(NOON))
                    .sort("created_at".parse().ok()),
                "created_at",
            ),
        ] {
            assert_eq!(query.order().to_string(), order, "{query:?}");
        }
        for (name, order) in KeyOrder::ALL {
            assert_eq!(name.parse(), Ok(order));
            assert_eq!(order.to_string(), name);
        }
    }

    #[test]
    fn others_are_cut_off_at_a_thousand() {
        let told = |count, more| {
            let others = Others::new(count, more);
            (others.count, others.more)
        };
        assert_eq!(told(0, false), (0, false));
        assert_eq!(told(1_000, false), (1_000, false));
        assert_eq!(told(1_001, false), (1_000, true));
        assert_eq!(told(u64::MAX, false), (1_000, true));
        assert_eq!(told(3, true), (3, true));
    }

    #[test]
    fn days_begin_at_midnight_also_before_1970() {
        let day = |micros| day_of(Timestamp::from_unix_micros(micros));
        assert_eq!(day(0), 0);
        assert_eq!(day(86_400_000_000 - 1), 0);
        assert_eq!(day(86_400_000_000), 1);
        assert_eq!(day(-1), -1);
    }
}
