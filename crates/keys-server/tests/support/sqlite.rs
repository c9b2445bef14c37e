//! The contents of an SQLite database as text.

use std::path::Path;

use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel::sqlite::SqliteConnection;

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

/// Returns schema and data, a row on each line, blobs in hex, like `.dump` of the `sqlite3` shell.
pub(crate) fn dump(path: &Path) -> String {
    let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    let mut lines = |query: &str| -> Vec<String> {
        let lines = diesel::sql_query(query).load::<Line>(&mut connection);
        lines.unwrap().into_iter().map(|one| one.line).collect()
    };
    let mut dump = lines("select coalesce(sql, name) as line from sqlite_schema");
    for table in lines("select name as line from sqlite_schema where type = 'table'") {
        let columns = lines(&format!(
            "select group_concat('quote(\"' || name || '\")', ' || '','' || ') as line from pragma_table_info('{table}')"
        ));
        let rows = lines(&format!("select {} as line from \"{table}\"", columns[0]));
        dump.extend(rows.into_iter().map(|row| format!("{table}: {row}")));
    }
    dump.join("\n")
}
