//! What differs between the databases.

/// Matches on an enum with a variant for each database that is compiled in.
macro_rules! by_database {
    ($value:expr, $enum:ident {
        Postgres $postgres:tt => $with_postgres:expr,
        Sqlite $sqlite:tt => $with_sqlite:expr $(,)?
    }) => {
        match $value {
            #[cfg(feature = "postgres")]
            $enum::Postgres $postgres => $with_postgres,
            #[cfg(feature = "sqlite")]
            $enum::Sqlite $sqlite => $with_sqlite,
        }
    };
}
pub(crate) use by_database;
