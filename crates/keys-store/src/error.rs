//! Failed queries, and whether they may succeed later.

use diesel::result::{DatabaseErrorInformation, DatabaseErrorKind, Error};
use keys_service::ports::{ChangeError, StoreError};

/// Reason why there is no connection.
pub(crate) type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// A query failed.
#[derive(Debug, thiserror::Error)]
#[error("a query failed")]
pub(crate) struct QueryError(#[from] Error);

impl QueryError {
    /// Returns whether the query itself is fine, so that it may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        is_transient(&self.0)
    }

    /// Returns whether nothing can be written at the moment: a full disk, a read-only database.
    pub(crate) fn is_unwritable(&self) -> bool {
        match &self.0 {
            Error::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _) => true,
            Error::DatabaseError(_, information) => says(&**information, &UNWRITABLE_MESSAGES),
            _ => false,
        }
    }

    pub(crate) fn is_unique_violation(&self) -> bool {
        matches!(
            self.0,
            Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)
        )
    }
}

impl From<QueryError> for StoreError {
    fn from(error: QueryError) -> Self {
        if error.is_transient() {
            Self::Unavailable(Box::new(error))
        } else {
            Self::Unexpected(Box::new(error))
        }
    }
}

impl From<QueryError> for ChangeError {
    fn from(error: QueryError) -> Self {
        Self::Store(error.into())
    }
}

/// Turns "no row" into `None`.
pub(crate) fn optional<T>(outcome: Result<T, QueryError>) -> Result<Option<T>, QueryError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(QueryError(Error::NotFound)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Messages of PostgreSQL and SQLite when they are overloaded or shutting down. Neither driver
/// passes on the codes of these errors. If PostgreSQL is set to another language, its messages
/// about its own state count as unexpected errors. A lost connection is detected in any case.
const TRANSIENT_MESSAGES: [&str; 11] = [
    "canceling statement due to",
    "terminating connection",
    "deadlock detected",
    "the database system is",
    "sorry, too many clients",
    "remaining connection slots",
    "too many connections",
    "Input/output error",
    "database is locked",
    "database table is locked",
    "unable to open database file",
];

/// Transient messages that say that nothing can be written, while reading may still work.
const UNWRITABLE_MESSAGES: [&str; 6] = [
    "could not extend file",
    "could not write to file",
    "No space left on device",
    "database or disk is full",
    "disk I/O error",
    "attempt to write a readonly database",
];

fn says(information: &dyn DatabaseErrorInformation, messages: &[&str]) -> bool {
    let said = information.message();
    messages.iter().any(|message| said.contains(message))
}

fn is_transient(error: &Error) -> bool {
    match error {
        Error::DatabaseError(kind, information) => match kind {
            DatabaseErrorKind::UnableToSendCommand
            | DatabaseErrorKind::ClosedConnection
            | DatabaseErrorKind::SerializationFailure
            // The server was demoted to a replica. Connecting again finds its successor.
            | DatabaseErrorKind::ReadOnlyTransaction => true,
            DatabaseErrorKind::Unknown => {
                let information = &**information;
                says(information, &TRANSIENT_MESSAGES) || says(information, &UNWRITABLE_MESSAGES)
            }
            _ => false,
        },
        Error::RollbackErrorOnCommit { commit_error, .. } => is_transient(commit_error),
        Error::BrokenTransactionManager => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_disk_may_be_mended_and_a_missing_column_not() {
        let said = |message: &str| {
            is_transient(&Error::DatabaseError(
                DatabaseErrorKind::Unknown,
                Box::new(message.to_owned()),
            ))
        };
        for message in [
            r#"could not read block 7 in file "base/5/16384": Input/output error"#,
            r#"could not fsync file "pg_wal/000000010000000000000001": Input/output error"#,
            r#"could not write to file "pg_wal/xlogtemp.7": No space left on device"#,
            "could not extend file \"base/5/16384\": wrote only 4096 of 8192 bytes at block 7",
            "disk I/O error",
        ] {
            assert!(said(message), "{message}");
        }
        assert!(!said(r#"column "revoked_at" does not exist"#));
    }
}
