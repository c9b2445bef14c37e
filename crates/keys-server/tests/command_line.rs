//! Every command, on SQLite and on PostgreSQL: results on standard output, everything else on
//! standard error, exit codes, and errors that name the setting or argument at fault.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod support {
    #[expect(dead_code, reason = "the tests of starts and stops use more of it")]
    pub(crate) mod program;
}

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use keys_core::SecretKey;
use keys_testkit::postgres::Database;
use keys_testkit::server::{PEPPER, Server};
use serde_json::{Value, json};

use support::program::{BINARY, Place, Program, Ran};

/// Turns each function into two tests of its name, one for each database.
macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[test]
            fn $name() {
                super::$name(super::Place::Sqlite);
            })+
        }

        mod on_postgres {
            $(#[test]
            fn $name() {
                super::$name(super::Place::Postgres);
            })+
        }
    };
}

on_both_databases![
    a_lost_pepper_id_is_refused_and_named,
    a_key_is_changed_disabled_and_enabled,
    a_key_that_is_revoked_cannot_be_revoked_again,
    keys_are_revoked_together_for_a_reason,
    scopes_are_given_to_operator_keys,
    sessions_are_ended,
    the_last_operator_key_is_kept,
    a_key_is_rotated_once_and_the_new_one_is_printed,
    a_schema_that_is_missing_is_refused_where_it_may_not_be_made,
    account_create_prints_the_bare_id,
    accounts_are_listed_in_aligned_columns,
    bad_peppers_are_refused_by_name_and_never_shown,
    creates_print_all_there_is_as_json,
    creates_print_the_bare_secret_alone,
    faulty_settings_are_refused_by_name,
    keys_are_filtered_and_sorted,
    keys_are_listed_in_aligned_columns_without_their_secrets,
    keys_are_shown_with_everything_but_their_secret,
    lists_say_on_standard_error_that_they_are_cut_off,
    migrate_prints_no_result_and_may_be_repeated,
    refusals_name_the_argument_at_fault,
    set_plan_takes_effect_at_once,
    trace_logs_hold_no_secret_and_leave_results_alone,
    wrong_usage_names_the_argument_at_fault,
];

/// An id that does not exist.
const UNKNOWN_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A pepper other than that of the fixture.
const OTHER_PEPPER: &str = "YW5vdGhlciBwZXBwZXIsIGFsc28gZm9yIHRoZSB0ZXN0cw==";

/// A password that no error and no log may repeat.
const PASSWORD: &str = "hunter2-correct-horse";

impl Program {
    fn account(&self, plan: &str) -> String {
        self.line(&["account", "create", "--plan", plan])
    }

    fn key(&self, account: &str) -> String {
        self.line(&["key", "create", "--account", account])
    }

    /// Returns the list of an account's keys, or that of the operator keys.
    fn keys(&self, owner: &[&str]) -> Vec<Value> {
        let arguments = [&["key", "list", "--json"], owner].concat();
        let ran = self.run(&arguments);
        // Standard error may say that ended keys are not listed.
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        ran.json().as_array().unwrap().clone()
    }
}

fn migrate_prints_no_result_and_may_be_repeated(place: Place) {
    let program = Program::new(place);
    for _ in 0..2 {
        let ran = program.run(&["migrate"]);
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        assert_eq!(ran.stdout, "");
        assert_eq!(ran.stderr, "the database is up to date\n");
    }
    // The next command uses its result, and creates everything else it needs.
    program.key(&program.account("pro"));
}

#[test]
fn migrate_needs_no_pepper() {
    let program = Program::new(Place::Postgres).without("KEYS_PEPPERS__KEYS__P1");
    let ran = program.run(&["migrate"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
}

fn creates_print_the_bare_secret_alone(place: Place) {
    let program = Program::new(place);
    let operator = program.line(&["operator-key", "create", "--name", "billing backend"]);
    let account = program.account("pro");
    let usual = program.key(&account);
    let asked = program.line(&[
        "key",
        "create",
        "--account",
        &account,
        "--prefix",
        "acme",
        "--name",
        "CI",
        "--ip",
        "10.0.0.0/8",
        "--ip",
        "::1",
        "--scope",
        "orders:read",
        "--expires",
        "2099-12-31T23:59:59+01:00",
    ]);
    for (secret, prefix) in [
        (operator, "operator_"),
        (usual, "sk_live_"),
        (asked, "acme_"),
    ] {
        assert!(secret.starts_with(prefix), "{secret}");
        SecretKey::parse(&secret).unwrap();
    }
}

fn creates_print_all_there_is_as_json(place: Place) {
    let program = Program::new(place);
    let operator = program
        .run(&[
            "operator-key",
            "create",
            "--json",
            "--name",
            "reader",
            "--ip",
            "10.1.2.3/8",
            "--scope",
            "keys:read",
            "--scope",
            "accounts:read",
            "--expires",
            "2099-12-31T23:59:59+01:00",
        ])
        .succeeded()
        .json();
    let secret = operator["key"].as_str().unwrap();
    SecretKey::parse(secret).unwrap();
    let expected = json!({
        "id": operator["id"],
        "kind": "operator",
        "account_id": null,
        "name": "reader",
        "key": secret,
        "key_prefix": secret[..13],
        "allowed_ips": ["10.0.0.0/8"],
        "scopes": ["accounts:read", "keys:read"],
        "expires_at": "2099-12-31T22:59:59.000Z",
        "limits": {},
        "metadata": {},
        "last_used_at": null,
        "created_at": operator["created_at"],
    });
    assert_eq!(operator, expected);
    assert_eq!(operator["id"].as_str().unwrap().len(), UNKNOWN_ID.len());

    let account = program.run(&[
        "account",
        "create",
        "--json",
        "--plan",
        "pro",
        "--external-id",
        "crm 17",
    ]);
    let account = account.succeeded().json();
    let expected = json!({
        "id": account["id"],
        "external_id": "crm 17",
        "plan": "pro",
        "disabled": false,
        "created_at": account["created_at"],
    });
    assert_eq!(account, expected);

    let id = account["id"].as_str().unwrap();
    let key = program
        .run(&["key", "create", "--json", "--account", id])
        .succeeded()
        .json();
    let secret = key["key"].as_str().unwrap();
    let expected = json!({
        "id": key["id"],
        "kind": "account",
        "account_id": id,
        "name": null,
        "key": secret,
        "key_prefix": secret[..12],
        "allowed_ips": [],
        "scopes": [],
        "expires_at": null,
        "limits": {},
        "metadata": {},
        "last_used_at": null,
        "created_at": key["created_at"],
    });
    assert_eq!(key, expected);
}

fn account_create_prints_the_bare_id(place: Place) {
    let program = Program::new(place);
    let id = program.account("pro");
    let accounts = program.run(&["account", "list", "--json"]).succeeded();
    assert_eq!(accounts.json()[0]["id"], id);
}

/// Asserts that `table` has these columns, all aligned, and returns its cells.
fn cells<const N: usize>(table: &str, columns: [&str; N]) -> Vec<[String; N]> {
    let lines: Vec<&str> = table.lines().collect();
    let mut starts = columns.map(|column| lines[0].find(column).unwrap());
    // "ID" is also the end of another column name.
    starts[0] = 0;
    assert!(starts.is_sorted(), "{table}");
    for line in &lines {
        assert_eq!(*line, line.trim_end(), "{table}");
        for start in starts.into_iter().skip(1) {
            assert_eq!(&line[start - 2..start], "  ", "{table}");
            assert_ne!(line.as_bytes()[start], b' ', "{table}");
        }
    }
    let row = |line: &str| {
        std::array::from_fn(|column| {
            let end = starts.get(column + 1).copied().unwrap_or(line.len());
            line[starts[column]..end].trim_end().to_owned()
        })
    };
    assert_eq!(row(lines[0]), columns.map(str::to_owned));
    lines[1..].iter().map(|line| row(line)).collect()
}

fn accounts_are_listed_in_aligned_columns(place: Place) {
    const COLUMNS: [&str; 5] = ["ID", "EXTERNAL ID", "PLAN", "DISABLED", "CREATED"];
    let program = Program::new(place);
    let empty = program.run(&["account", "list"]).succeeded();
    assert!(cells(&empty.stdout, COLUMNS).is_empty());

    let named = "a rather long external id, of the kind that moves columns";
    let first = program.account("business");
    let second = program.line(&["account", "create", "--plan", "pro", "--external-id", named]);
    let table = program.run(&["account", "list"]).succeeded().stdout;
    let rows = cells(&table, COLUMNS);
    let rows: Vec<_> = rows
        .iter()
        .map(|row| row.each_ref().map(String::as_str))
        .collect();
    assert_eq!(rows[0][..4], [first.as_str(), "-", "business", "no"]);
    assert_eq!(rows[1][..4], [second.as_str(), named, "pro", "no"]);
    assert_eq!(rows.len(), 2);

    let found = program.run(&["account", "list", "--external-id", named]);
    let rows = cells(&found.succeeded().stdout, COLUMNS);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0][0], second);
}

fn keys_are_listed_in_aligned_columns_without_their_secrets(place: Place) {
    const COLUMNS: [&str; 8] = [
        "ID",
        "NAME",
        "PREFIX",
        "ADDRESSES",
        "EXPIRES",
        "LAST USED",
        "CREATED",
        "STATUS",
    ];
    let program = Program::new(place);
    let account = program.account("pro");
    let empty = program.run(&["key", "list", "--account", &account]);
    assert!(cells(&empty.succeeded().stdout, COLUMNS).is_empty());

    let plain = program.key(&account);
    let rich = program.line(&[
        "key",
        "create",
        "--account",
        &account,
        "--name",
        "a name with spaces",
        "--ip",
        "10.0.0.1",
        "--ip",
        "2001:db8::/32",
        "--expires",
        "2099-12-31T23:59:59Z",
    ]);
    let table = program
        .run(&["key", "list", "--account", &account])
        .succeeded()
        .stdout;
    let rows = cells(&table, COLUMNS);
    let shown = |secret: &str| format!("{}..", &secret[..12]);
    // Newest first.
    let (first, second) = (shown(&rich), shown(&plain));
    assert_eq!(
        rows[0][1..6],
        [
            "a name with spaces",
            first.as_str(),
            "10.0.0.1 2001:db8::/32",
            "2099-12-31T23:59:59.000Z",
            "never",
        ]
    );
    assert_eq!(
        rows[1][1..6],
        ["-", second.as_str(), "any", "never", "never"]
    );
    assert_eq!(rows.len(), 2);

    let operator = program.line(&["operator-key", "create", "--name", "ops"]);
    let table = program.run(&["key", "list", "--operators"]).succeeded();
    let rows = cells(&table.stdout, COLUMNS);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0][2], format!("{}..", &operator[..13]));

    let all = program.run(&["key", "list", "--account", &account, "--json"]);
    let said = format!("{}{}{}", table.stdout, all.stdout, all.stderr);
    for secret in [plain, rich, operator] {
        assert!(!said.contains(&secret[12..24]), "{said}");
    }
    assert_eq!(all.json().as_array().unwrap().len(), 2);
    assert!(all.json()[0].get("key").is_none());
}

fn keys_are_shown_with_everything_but_their_secret(place: Place) {
    let program = Program::new(place);
    let account = program.account("pro");
    let secret = program.line(&[
        "key",
        "create",
        "--account",
        &account,
        "--name",
        "CI",
        "--scope",
        "orders:read",
    ]);
    let listed = program.keys(&["--account", &account]);
    let id = listed[0]["id"].as_str().unwrap();
    let sheet = program.run(&["key", "show", id]).succeeded();
    for words in [
        format!("id              {id}"),
        "status          active".to_owned(),
        "name            CI".to_owned(),
        "scopes          orders:read".to_owned(),
    ] {
        assert!(sheet.stdout.lines().any(|line| line == words), "{sheet:#?}");
    }
    let shown = program.run(&["key", "show", id, "--json"]).succeeded();
    assert_eq!(shown.json(), listed[0]);
    let created_by = json!({ "type": "system", "id": null, "subject": null });
    assert_eq!(shown.json()["created_by"], created_by);
    for said in [&sheet.stdout, &shown.stdout] {
        assert!(!said.contains(&secret[12..24]), "{said}");
    }
    program.line(&["key", "revoke", id]);
    let shown = program.run(&["key", "show", id, "--json"]).succeeded();
    assert_eq!(shown.json()["status"], "revoked");
    program
        .run(&["key", "show", UNKNOWN_ID])
        .refused(1, &[UNKNOWN_ID, "no such key"]);

    program.line(&["operator-key", "create", "--name", "ops"]);
    let operator = program.keys(&["--operators"])[0].clone();
    let id = operator["id"].as_str().unwrap();
    let shown = program.run(&["key", "show", id, "--json"]).succeeded();
    assert_eq!(shown.json(), operator);
}

fn keys_are_filtered_and_sorted(place: Place) {
    let program = Program::new(place);
    let (account, other) = (program.account("pro"), program.account("pro"));
    program.line(&[
        "account",
        "create",
        "--plan",
        "pro",
        "--external-id",
        "crm 17",
    ]);
    let create = ["key", "create", "--account"];
    let key = |arguments: &[&str]| program.line(&[&create[..], arguments].concat());
    let plain = key(&[&account]);
    let named = key(&[
        &account,
        "--name",
        "Nightly Backup",
        "--scope",
        "orders:read",
    ]);
    let ending = key(&[&account, "--expires", "2090-01-01T00:00:00Z"]);
    let foreign = key(&[&other, "--scope", "orders:read"]);
    let shown = |secret: &String| secret[..12].to_owned();
    let prefixes = |arguments: &[&str]| -> Vec<String> {
        let keys = program.keys(arguments).into_iter();
        keys.map(|key| key["key_prefix"].as_str().unwrap().to_owned())
            .collect()
    };
    let sorted = |mut prefixes: Vec<String>| {
        prefixes.sort();
        prefixes
    };
    for (arguments, expected) in [
        (vec![], vec![&plain, &named, &ending, &foreign]),
        (vec!["--account", &account], vec![&plain, &named, &ending]),
        (vec!["--external-id", "crm 17"], vec![]),
        (vec!["--scope", "orders:read"], vec![&named, &foreign]),
        (
            vec!["--account", &account, "--name", "backup"],
            vec![&named],
        ),
        (
            vec!["--expires-before", "2091-01-01T00:00:00Z"],
            vec![&ending],
        ),
        (vec!["--status", "revoked,expired"], vec![]),
        (vec!["--created-by", "subject:nothing"], vec![]),
        (vec!["--created-after", "2090-01-01T00:00:00Z"], vec![]),
        (vec!["--last-used-before", "2020-01-01T00:00:00Z"], vec![]),
        (
            vec!["--account", &account, "--metadata", "team=billing"],
            vec![],
        ),
        (vec!["--sessions", "--account", &account], vec![]),
    ] {
        let expected = expected.into_iter().map(shown).collect();
        let found = sorted(prefixes(&arguments));
        assert_eq!(found, sorted(expected), "{arguments:?}");
    }
    let by_prefix = format!("{}..", shown(&named));
    assert_eq!(prefixes(&["--prefix", &by_prefix]), [shown(&named)]);
    let by_expiry = prefixes(&["--account", &account, "--sort", "expires_at"]);
    assert_eq!(by_expiry[0], shown(&ending));
    let newest = prefixes(&["--sort", "-created_at", "--limit", "4"]);
    let mut oldest = prefixes(&["--sort", "created_at"]);
    oldest.reverse();
    assert_eq!(newest, oldest);
    for (line, word) in [
        ("--name x", "--name"),
        ("--metadata a=b", "--metadata"),
        ("--sessions", "--sessions"),
        ("--status revoked --sort expires_at", "--status"),
        ("--account AAAAAAAAAAAAAAAAAAAAAA", "--account"),
    ] {
        let arguments: Vec<_> = ["key", "list"].into_iter().chain(line.split(' ')).collect();
        program.run(&arguments).refused(1, &[word]);
    }

    let gone = program.keys(&["--prefix", &by_prefix])[0]["id"].clone();
    program.line(&["key", "revoke", gone.as_str().unwrap()]);
    let rest = program.run(&["key", "list", "--account", &account]);
    assert_eq!(rest.code, Some(0));
    assert!(
        rest.stderr.contains("not listed: 1; add --status"),
        "{rest:#?}"
    );
    assert_eq!(prefixes(&["--status", "revoked"]), [shown(&named)]);
}

fn lists_say_on_standard_error_that_they_are_cut_off(place: Place) {
    let program = Program::new(place);
    let account = program.account("pro");
    program.account("pro");
    program.key(&account);
    program.key(&account);
    for list in [
        vec!["account", "list"],
        vec!["key", "list", "--account", &account],
    ] {
        let cut = program.run(&[list.clone(), vec!["--limit", "1"]].concat());
        assert_eq!(cut.code, Some(0));
        assert_eq!(cut.stdout.lines().count(), 2, "{cut:#?}");
        assert!(cut.stderr.contains("--limit"), "{cut:#?}");
        let whole = program.run(&[list, vec!["--limit", "2"]].concat());
        assert_eq!(whole.succeeded().stdout.lines().count(), 3);
    }
}

fn set_plan_takes_effect_at_once(place: Place) {
    let program = Program::new(place);
    let account = program.account("free");
    let create = ["key", "create", "--account", &account];
    program.run(&create).refused(1, &["--account", "plan"]);
    let set = ["account", "set-plan", "--account", &account, "--plan"];
    let line = program.line(&[&set[..], &["pro"]].concat());
    assert_eq!(line, format!("{account} is on plan pro"));
    program.key(&account);
    let ran = program.run(&[&set[..], &["business", "--json"]].concat());
    let changed = ran.succeeded().json();
    assert_eq!(
        (&changed["id"], &changed["plan"]),
        (&json!(account), &json!("business"))
    );
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_key_is_changed_disabled_and_enabled(place: Place) {
    let program = Program::new(place);
    let account = program.account("pro");
    let created = program
        .run(&[
            "key",
            "create",
            "--json",
            "--account",
            &account,
            "--metadata",
            "team=a=b",
            "--limit",
            "create=5/60",
        ])
        .succeeded()
        .json();
    let limits = json!({ "create": { "requests": 5, "period_seconds": 60 } });
    assert_eq!(created["limits"], limits);
    assert_eq!(created["metadata"], json!({ "team": "a=b" }));
    let id = created["id"].as_str().unwrap();

    for (arguments, fault) in [
        (vec![id], "--name"),
        (vec![id, "--name", "x", "--no-name"], "--no-name"),
        (vec![id, "--ip", "10.0.0.1", "--any-ip"], "--any-ip"),
        (vec![id, "--metadata", "Team=x"], "--metadata"),
        (vec![id, "--metadata", "team"], "--metadata"),
        (vec![id, "--limit", "create=5"], "--limit"),
        (vec![id, "--limit", "create=0/60"], "--limit"),
        (vec!["x", "--no-name"], "<ID>"),
    ] {
        let arguments = [&["key", "set"], &arguments[..]].concat();
        program.run(&arguments).refused(2, &[fault]);
    }
    for (arguments, fault) in [
        (vec![id, "--expires", "2020-01-01T00:00:00Z"], "--expires"),
        (vec![id, "--limit", "cals=5/60"], "--limit"),
        (vec![UNKNOWN_ID, "--no-name"], "no such key"),
    ] {
        let arguments = [&["key", "set"], &arguments[..]].concat();
        program.run(&arguments).refused(1, &[fault]);
    }

    let line = program.line(&["key", "set", id, "--name", "CI"]);
    assert_eq!(line, format!("{id} is changed"));
    let changed = program
        .run(&[
            "key",
            "set",
            id,
            "--json",
            "--ip",
            "10.1.2.3/8",
            "--ip",
            "::1",
            "--scope",
            "b",
            "--scope",
            "a",
            "--expires",
            "2099-12-31T23:59:59Z",
            "--metadata",
            "other=x",
            "--remove-metadata",
            "team",
            "--limit",
            "list=7/60",
            "--remove-limit",
            "create",
        ])
        .succeeded()
        .json();
    let expected = json!({
        "id": id,
        "kind": "account",
        "account_id": account,
        "name": "CI",
        "key_prefix": created["key_prefix"],
        "allowed_ips": ["10.0.0.0/8", "::1"],
        "scopes": ["a", "b"],
        "expires_at": "2099-12-31T23:59:59.000Z",
        "last_used_at": null,
        "created_at": created["created_at"],
        "status": "active",
        "limits": { "list": { "requests": 7, "period_seconds": 60 } },
        "metadata": { "other": "x" },
        "created_by": { "type": "system", "id": null, "subject": null },
        "last_used_ip": null,
        "use_count": 0,
        "disabled_at": null,
        "revoked_at": null,
        "revoked_reason": null,
        "revoked_note": null,
        "predecessor": null,
        "successor": null,
    });
    assert_eq!(changed, expected);
    let removed = program
        .run(&[
            "key",
            "set",
            id,
            "--json",
            "--no-name",
            "--any-ip",
            "--no-scopes",
            "--never-expires",
            "--remove-metadata",
            "other",
            "--remove-limit",
            "list",
        ])
        .succeeded()
        .json();
    for (field, value) in [
        ("name", json!(null)),
        ("allowed_ips", json!([])),
        ("scopes", json!([])),
        ("expires_at", json!(null)),
        ("limits", json!({})),
        ("metadata", json!({})),
    ] {
        assert_eq!(removed[field], value, "{field}");
    }

    for _ in 0..2 {
        let line = program.line(&["key", "disable", id]);
        assert_eq!(line, format!("{id} is disabled"));
    }
    let enabled = program.run(&["key", "enable", "--json", id]).succeeded();
    assert_eq!(enabled.json()["status"], "active");
    let disabled = program.run(&["key", "disable", "--json", id]).succeeded();
    assert_eq!(disabled.json()["status"], "disabled");

    // An operator key as well, except for its scopes.
    program.line(&["operator-key", "create", "--name", "ops"]);
    let operator = program.keys(&["--operators"])[0]["id"].clone();
    let operator = operator.as_str().unwrap();
    program.line(&["key", "disable", operator]);
    program
        .run(&["key", "set", operator, "--scope", "keys:read"])
        .refused(1, &["--scope"]);

    program.line(&["key", "revoke", id]);
    for command in ["disable", "enable"] {
        program
            .run(&["key", command, id])
            .refused(1, &[id, "ended"]);
    }
}

fn a_key_that_is_revoked_cannot_be_revoked_again(place: Place) {
    let program = Program::new(place);
    let account = program.account("pro");
    program.key(&account);
    program.key(&account);
    let listed = program.keys(&["--account", &account]);
    let ids: Vec<_> = listed
        .iter()
        .map(|key| key["id"].as_str().unwrap())
        .collect();

    assert_eq!(
        program.line(&["key", "revoke", ids[0]]),
        format!("{} is revoked", ids[0])
    );
    program
        .run(&["key", "revoke", ids[0]])
        .refused(1, &[ids[0], "revoked already"]);
    let json = program
        .run(&["key", "revoke", "--json", ids[1]])
        .succeeded();
    assert_eq!(json.json(), json!({"id": ids[1], "revoked": true}));
    assert!(program.keys(&["--account", &account]).is_empty());

    // An operator key is revoked in the same way.
    program.line(&["operator-key", "create", "--name", "ops"]);
    let operator = program.keys(&["--operators"])[0]["id"].clone();
    program.line(&["key", "revoke", "--force", operator.as_str().unwrap()]);
    assert!(program.keys(&["--operators"]).is_empty());
    program
        .run(&["key", "revoke", UNKNOWN_ID])
        .refused(1, &[UNKNOWN_ID, "no such key"]);
}

fn keys_are_revoked_together_for_a_reason(place: Place) {
    let program = Program::new(place);
    let account = program.account("pro");
    let made: Vec<String> = (0..5)
        .map(|_| {
            let create = ["key", "create", "--json", "--account", &account];
            let key = program.run(&create).succeeded().json();
            key["id"].as_str().unwrap().to_owned()
        })
        .collect();
    for (arguments, named) in [
        (vec![], "--account"),
        (vec![&*made[0], "--account", &account], "--account"),
        (vec![&made[0], "--reason", "stolen"], "--reason"),
        (vec![&made[0], "--note", ""], "--note"),
        (vec!["--created-by", "user-17"], "--created-by"),
    ] {
        let arguments = [&["key", "revoke"][..], &arguments].concat();
        program.run(&arguments).refused(2, &[named]);
    }
    assert_eq!(program.keys(&["--account", &account]).len(), 5);

    let revoke = [
        "key",
        "revoke",
        &made[0],
        &made[1],
        "--reason",
        "superseded",
    ];
    let revoke = [&revoke[..], &["--note", "rotated by hand", "--yes"]].concat();
    assert_eq!(program.line(&revoke), "2 keys revoked");
    let some = program.run(&["key", "revoke", &made[1], &made[2]]);
    assert_eq!(some.code, Some(1), "{some:#?}");
    assert_eq!(some.stdout, "1 key revoked\n");
    assert!(some.stderr.contains(&made[1]), "{some:#?}");
    assert!(!some.stderr.contains(&made[2]), "{some:#?}");

    let by = ["key", "revoke", "--json", "--created-by", "subject:user-17"];
    let none = program.run(&by).succeeded().json();
    assert_eq!(none, json!({ "revoked": 0, "remaining": 0 }));
    let all = ["key", "revoke", "--account", &account, "--reason", "leaked"];
    assert_eq!(program.line(&all), "2 keys revoked");
    assert!(program.keys(&["--account", &account]).is_empty());
    let unknown = ["key", "revoke", "--account", UNKNOWN_ID];
    program.run(&unknown).refused(1, &["no such account"]);
}

fn the_last_operator_key_is_kept(place: Place) {
    let program = Program::new(place);
    let create = ["operator-key", "create", "--json", "--name", "ops"];
    let key = program.run(&create).succeeded().json();
    let id = key["id"].as_str().unwrap();
    program
        .run(&["key", "revoke", id])
        .refused(1, &["--force", "operators:write"]);
    let set = ["operator-key", "set-scopes", id, "--scope", "keys:read"];
    program
        .run(&set)
        .refused(1, &["--force", "operators:write"]);
    program.line(&[&set[..], &["--force"]].concat());
    program.line(&["key", "revoke", id]);
}

fn scopes_are_given_to_operator_keys(place: Place) {
    let program = Program::new(place);
    let create = ["operator-key", "create", "--json", "--name", "old"];
    let create = [&create[..], &["--scope", "keys:read"]].concat();
    let key = program.run(&create).succeeded().json();
    let id = key["id"].as_str().unwrap();
    let set = ["operator-key", "set-scopes", id];
    program.run(&set).refused(2, &["--scope"]);
    let unknown = [&set[..], &["--scope", "keys:all"]].concat();
    program.run(&unknown).refused(2, &["--scope"]);
    let unknown_id = [
        "operator-key",
        "set-scopes",
        UNKNOWN_ID,
        "--scope",
        "keys:read",
    ];
    program.run(&unknown_id).refused(1, &[UNKNOWN_ID]);
    let named = ["--scope", "operators:write", "--scope", "keys:read"];
    let line = program.line(&[&set[..], &named].concat());
    assert_eq!(
        line,
        format!("{id} has the scopes keys:read, operators:write")
    );
    let listed = program.keys(&["--operators"]);
    assert_eq!(listed[0]["scopes"], json!(["keys:read", "operators:write"]));
}

fn sessions_are_ended(place: Place) {
    let program = Program::new(place);
    let account = program.account("pro");
    let end = ["session", "end", "--account", &account];
    program.run(&["session", "end"]).refused(2, &["--account"]);
    let unknown = [&end[..], &[UNKNOWN_ID]].concat();
    program.run(&unknown).refused(1, &[UNKNOWN_ID]);
    program
        .run(&["session", "end", "--account", UNKNOWN_ID])
        .refused(1, &["--account"]);
    let person = [&end[..], &["--subject", "user-17", "--yes"]].concat();
    assert_eq!(program.line(&person), "0 sessions ended");
    let all = [&end[..], &["--json", "--reason", "offboarded"]].concat();
    let ended = program.run(&all).succeeded().json();
    assert_eq!(ended, json!({ "revoked": 0, "remaining": 0 }));
}

fn a_key_is_rotated_once_and_the_new_one_is_printed(place: Place) {
    let program = Program::new(place);
    let account = program.account("pro");
    let create = [
        "key",
        "create",
        "--json",
        "--account",
        &account,
        "--prefix",
        "acme",
        "--name",
        "CI",
        "--ip",
        "10.0.0.0/8",
        "--scope",
        "a",
    ];
    let old = program.run(&create).succeeded().json();
    let id = old["id"].as_str().unwrap();
    program
        .run(&["key", "rotate", UNKNOWN_ID])
        .refused(1, &[UNKNOWN_ID, "no such key"]);
    program
        .run(&["key", "rotate", id, "--expires", "2020-01-01T00:00:00Z"])
        .refused(1, &["--expires", "future"]);

    let rotate = ["key", "rotate", id, "--grace", "7d", "--json"];
    let new = program.run(&rotate).succeeded().json();
    let secret = new["key"].as_str().unwrap();
    SecretKey::parse(secret).unwrap();
    let expected = json!({
        "id": new["id"],
        "kind": "account",
        "account_id": account,
        "name": "CI",
        "key": secret,
        "key_prefix": secret[..12],
        "allowed_ips": ["10.0.0.0/8"],
        "scopes": ["a"],
        "expires_at": null,
        "limits": {},
        "metadata": {},
        "last_used_at": null,
        "created_at": new["created_at"],
        "predecessor": id,
        "predecessor_ends_at": new["predecessor_ends_at"],
    });
    assert_eq!(new, expected);
    assert!(secret.starts_with("acme_"), "{secret}");
    assert_ne!(new["id"], old["id"]);
    let id_of_new = new["id"].as_str().unwrap();
    program
        .run(&["key", "rotate", id])
        .refused(1, &[id, "rotated already", id_of_new]);
    let listed = program.keys(&["--account", &account]);
    assert_eq!(listed[0]["expires_at"], json!(null));
    assert_eq!(listed[1]["expires_at"], new["predecessor_ends_at"]);

    // The secret alone. The key before it ends at once, and so does the first of the chain.
    let third = program.line(&["key", "rotate", id_of_new, "--grace", "0"]);
    SecretKey::parse(&third).unwrap();
    assert_eq!(program.keys(&["--account", &account]).len(), 1);
    program
        .run(&["key", "rotate", id_of_new])
        .refused(1, &[id_of_new, "rotated already"]);

    program.line(&["operator-key", "create", "--name", "ops"]);
    let operator = program.keys(&["--operators"])[0]["id"].clone();
    let rotated = program.line(&["key", "rotate", operator.as_str().unwrap(), "--grace", "1m"]);
    assert!(rotated.starts_with("operator_"), "{rotated}");
    assert_eq!(program.keys(&["--operators"]).len(), 2);
}

fn refusals_name_the_argument_at_fault(place: Place) {
    let program = Program::new(place);
    let free = program.account("free");
    let pro = program.account("pro");
    program.line(&[
        "account",
        "create",
        "--plan",
        "pro",
        "--external-id",
        "taken",
    ]);
    for _ in 0..10 {
        program.key(&pro);
    }
    let past = "2020-01-01T00:00:00Z";
    for (line, words) in [
        (
            format!("operator-key create --name x --expires {past}"),
            ["--expires", "future"],
        ),
        (
            "account create --plan platinum".to_owned(),
            ["--plan", "no plan"],
        ),
        (
            "account create --plan pro --external-id taken".to_owned(),
            ["--external-id", "another"],
        ),
        (
            format!("account set-plan --account {pro} --plan platinum"),
            ["--plan", "no plan"],
        ),
        (
            format!("account set-plan --account {UNKNOWN_ID} --plan pro"),
            ["--account", "no such"],
        ),
        (
            format!("key create --account {UNKNOWN_ID}"),
            ["--account", "no such"],
        ),
        (
            format!("key create --account {free}"),
            ["--account", "plan"],
        ),
        (
            format!("key create --account {pro}"),
            ["--account", "10 keys"],
        ),
        (
            format!("key create --account {pro} --expires {past}"),
            ["--expires", "future"],
        ),
        (
            format!("key create --account {pro} --prefix operator"),
            ["--prefix", "reserved"],
        ),
        (
            format!("key create --account {pro} --prefix session"),
            ["--prefix", "reserved"],
        ),
    ] {
        let arguments: Vec<_> = line.split(' ').collect();
        let ran = program.run(&arguments).refused(1, &words);
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
        assert!(
            !ran.stderr.contains("--account") || words[0] == "--account",
            "{ran:#?}"
        );
    }
    // Nothing was created.
    assert_eq!(program.keys(&["--account", &pro]).len(), 10);
    assert!(program.keys(&["--operators"]).is_empty());
}

fn wrong_usage_names_the_argument_at_fault(place: Place) {
    let program = Program::new(place);
    let ip = [
        "10.0.0.1:80",
        "localhost",
        "010.0.0.1",
        "10.0.0.0/33",
        "fe80::1%eth0",
        "",
    ];
    for ip in ip {
        for create in [
            vec!["operator-key", "create", "--name", "x"],
            vec!["key", "create", "--account", UNKNOWN_ID],
        ] {
            let arguments = [create, vec!["--ip", "10.0.0.1", "--ip", ip]].concat();
            program.run(&arguments).refused(2, &["--ip"]);
        }
    }
    for (line, word) in [
        ("nonsense", "nonsense"),
        ("--nonsense", "--nonsense"),
        ("serve nonsense", "nonsense"),
        ("operator-key", "Usage:"),
        ("operator-key create", "--name"),
        ("operator-key create --name", "--name"),
        ("operator-key create --name x --scope keys:own", "--scope"),
        (
            "operator-key create --name x --expires 2099-12-31",
            "--expires",
        ),
        (
            "operator-key create --name x --expires tomorrow",
            "--expires",
        ),
        ("account", "Usage:"),
        ("account create", "--plan"),
        ("account create --plan Pro!", "--plan"),
        ("account create --plan pro --external-id=", "--external-id"),
        ("account list --limit 0", "--limit"),
        ("account list --limit 10001", "--limit"),
        ("account set-plan --plan pro", "--account"),
        ("account set-plan --account x --plan pro", "--account"),
        ("key create", "--account"),
        ("key create --account x", "--account"),
        (
            "key create --account AAAAAAAAAAAAAAAAAAAAAA --prefix SK",
            "--prefix",
        ),
        (
            "key create --account AAAAAAAAAAAAAAAAAAAAAA --name=",
            "--name",
        ),
        (
            "key create --account AAAAAAAAAAAAAAAAAAAAAA --scope A",
            "--scope",
        ),
        (
            "key create --account AAAAAAAAAAAAAAAAAAAAAA --expires never",
            "--expires",
        ),
        ("key list --status gone", "--status"),
        ("key list --created-by user-17", "--created-by"),
        ("key list --prefix=", "--prefix"),
        ("key list --metadata team", "--metadata"),
        ("key list --sort name", "--sort"),
        ("key show", "ID"),
        ("key show x", "ID"),
        (
            "key list --operators --account AAAAAAAAAAAAAAAAAAAAAA",
            "--operators",
        ),
        ("key list --operators --limit x", "--limit"),
        ("key rotate", "ID"),
        ("key rotate x", "ID"),
        ("key rotate AAAAAAAAAAAAAAAAAAAAAA --grace 1", "--grace"),
        ("key rotate AAAAAAAAAAAAAAAAAAAAAA --grace 8d", "--grace"),
        (
            "key rotate AAAAAAAAAAAAAAAAAAAAAA --expires tomorrow",
            "--expires",
        ),
        ("key revoke", "ID"),
        ("key revoke x", "ID"),
        ("completions", "SHELL"),
        ("completions cobol", "SHELL"),
    ] {
        let arguments: Vec<_> = line.split(' ').collect();
        program.run(&arguments).refused(2, &[word]);
    }
    assert!(
        !program.folder().join("data").exists(),
        "nothing was opened"
    );
}

fn faulty_settings_are_refused_by_name(place: Place) {
    let program = Program::new(place);
    for (name, value, words) in [
        ("KEYS_HTTP__LISTEN", "8080", ["http.listen", "8080"]),
        ("KEYS_HTTP__WORKERS", "many", ["http.workers", "many"]),
        ("KEYS_HTTP__NONSENSE", "1", ["nonsense", "environment"]),
        (
            "KEYS_HTTP__TRUSTED_PROXIES",
            "proxy",
            ["http.trusted_proxies", "proxy"],
        ),
        (
            "KEYS_HTTP__KEY_MANAGEMENT",
            "all",
            ["http.key_management", "session_only"],
        ),
        ("KEYS_LOG__FILTER", "==", ["log.filter", "=="]),
        ("KEYS_LOG__FORMAT", "xml", ["log.format", "xml"]),
        ("KEYS_PLANS__PRO__KEYS_MAX", "-1", ["keys_max", "-1"]),
        (
            "KEYS_PLANS__PRO__KEYS_MAX",
            "0.4",
            ["plans.pro.keys_max", "0.4"],
        ),
        (
            "KEYS_VERIFICATION__GRACE_SECONDS",
            "yes",
            ["verification.grace_seconds", "yes"],
        ),
        ("KEYS_PLANS__PRO__KEYS", "2", ["plans.pro.keys", "true"]),
        (
            "KEYS_HTTP__LISTENS",
            "127.0.0.1:1",
            ["http.listens", "did you mean `http.listen`?"],
        ),
        ("KEYS_PEPPERS__CURRENT", "p9", ["peppers.current", "p9"]),
        (
            "KEYS_DATABASE__CONNECTIONS_MAX",
            "0",
            ["database.connections_max", ""],
        ),
        (
            "KEYS_DATABASE__URL",
            "mysql://localhost/keys",
            ["database.url", "postgres://"],
        ),
        (
            "KEYS_DATABASE__URL",
            "sqlite::memory:",
            ["database.url", "file"],
        ),
        (
            "KEYS_DATABASE__URL",
            "sqlite:///dev/null/keys.db",
            ["database.url", "SQLite file"],
        ),
        (
            "KEYS_CONFIG",
            "/nowhere/keys.toml",
            ["/nowhere/keys.toml", "KEYS_CONFIG"],
        ),
    ] {
        let program = Program::new(place).with(name, value);
        for command in [vec![], vec!["serve"], vec!["account", "list"]] {
            program.run(&command).refused(1, &words);
        }
    }
    let file = program.folder().join("keys.toml");
    std::fs::write(&file, "[http]\nlisten = 80\nlisten = 81\n").unwrap();
    let config = ["account", "list", "--config", "keys.toml"];
    program.run(&config).refused(1, &["keys.toml"]);
    std::fs::write(&file, "[plans.pro]\nkeys_max = \"x\"\n").unwrap();
    program.run(&config).refused(1, &["keys.toml", "keys_max"]);
    std::fs::write(&file, "[plans.pro]\nkeys_max = 10.5\n").unwrap();
    program.run(&config).refused(1, &["keys.toml", "10.5"]);
    std::fs::write(&file, "[peppers]\ncurrent = 1\n").unwrap();
    program
        .run(&config)
        .refused(1, &["peppers.current", "text"]);
    assert!(
        !program.folder().join("data").exists(),
        "nothing was opened"
    );
    std::fs::write(&file, "[plans.pro]\nkeys_max = 3\n").unwrap();
    program.run(&config).succeeded();
}

#[test]
fn postgres_without_a_pepper_is_refused_and_the_setting_named() {
    let program = Program::new(Place::Postgres).without("KEYS_PEPPERS__KEYS__P1");
    for command in every_use_of_keys() {
        program
            .run(&command)
            .refused(1, &["KEYS_PEPPERS__KEYS__P1", "peppers.keys.p1"]);
    }
    let tables = "select count(*) from pg_tables where schemaname = 'public'";
    assert_eq!(program.database().sql(tables), "0\n", "nothing was touched");
    assert!(!program.folder().join("data").exists());
}

/// Returns a command line for everything that works with keys, `serve` included.
fn every_use_of_keys() -> Vec<Vec<&'static str>> {
    [
        "",
        "serve",
        "operator-key create --name x",
        "account create --plan pro",
        "account list",
        "account set-plan --plan pro --account AAAAAAAAAAAAAAAAAAAAAA",
        "key create --account AAAAAAAAAAAAAAAAAAAAAA",
        "key list --operators",
        "key rotate AAAAAAAAAAAAAAAAAAAAAA",
        "key revoke AAAAAAAAAAAAAAAAAAAAAA",
    ]
    .into_iter()
    .map(|line| line.split_whitespace().collect())
    .collect()
}

fn bad_peppers_are_refused_by_name_and_never_shown(place: Place) {
    let program = Program::new(place);
    let folder = program.folder();
    std::fs::write(folder.join("short"), "c2hvcnQ=\n").unwrap();
    std::fs::write(folder.join("long"), "A".repeat(5_000)).unwrap();
    let short = format!("file:{}", folder.join("short").display());
    let long = format!("file:{}", folder.join("long").display());
    let zeros = "A".repeat(43) + "=";
    for (pepper, secret, word) in [
        // 31 bytes; the example of the documentation; 32 times the same byte; not base64.
        (
            "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMQ==",
            "MTIzNDU2",
            "32",
        ),
        (
            keys_core::DOCUMENTED_PEPPER,
            keys_core::DOCUMENTED_PEPPER,
            "document",
        ),
        (&zeros, "AAAAAAAA", ""),
        (
            "correct horse battery staple, and more of it",
            "battery",
            "base64",
        ),
        ("file:/nowhere/pepper", "nothing", "/nowhere/pepper"),
        (&short, "c2hvcnQ", "/short"),
        (&long, "AAAAAAAA", "/long"),
    ] {
        let program = Program::new(place)
            .with("KEYS_PEPPERS__KEYS__P1", pepper)
            .with("KEYS_LOG__FILTER", "trace");
        for command in [&[][..], &["operator-key", "create", "--name", "x"]] {
            let ran = program.run(command).refused(1, &["peppers.keys.p1", word]);
            assert!(!ran.stderr.contains(secret), "{ran:#?}");
        }
    }
    // Two, and none is set as the current one.
    Program::new(place)
        .with("KEYS_PEPPERS__KEYS__P1", PEPPER)
        .with("KEYS_PEPPERS__KEYS__P2", OTHER_PEPPER)
        .run(&["account", "list"])
        .refused(1, &["peppers.current"]);
}

fn a_lost_pepper_id_is_refused_and_named(place: Place) {
    let program = Program::new(place).with("KEYS_PEPPERS__KEYS__P1", PEPPER);
    program.line(&["operator-key", "create", "--name", "old"]);
    let program = program
        .without("KEYS_PEPPERS__KEYS__P1")
        .with("KEYS_PEPPERS__KEYS__P2", OTHER_PEPPER);
    for command in every_use_of_keys() {
        program.run(&command).refused(
            1,
            &["pepper p1", "peppers.keys.p1", "KEYS_PEPPERS__KEYS__P1"],
        );
    }
    // With both, old and new keys are found.
    let program = program
        .with("KEYS_PEPPERS__KEYS__P1", PEPPER)
        .with("KEYS_PEPPERS__CURRENT", "p2");
    program.line(&["operator-key", "create", "--name", "new"]);
    let names: Vec<_> = program.keys(&["--operators"]);
    assert_eq!(names[0]["name"], "new");
    assert_eq!(names[1]["name"], "old");
    // The old one is needed only while its keys can be used.
    program.line(&["key", "revoke", names[1]["id"].as_str().unwrap()]);
    let program = program.without("KEYS_PEPPERS__KEYS__P1");
    assert_eq!(program.keys(&["--operators"]).len(), 1);
}

#[test]
fn lost_pepper_file_of_an_existing_database_is_refused_and_none_is_made() {
    let program = Program::new(Place::Sqlite);
    program.line(&["operator-key", "create", "--name", "first"]);
    let pepper = program.folder().join("data/pepper");
    let kept = std::fs::read(&pepper).unwrap();
    std::fs::remove_file(&pepper).unwrap();
    for command in every_use_of_keys() {
        program
            .run(&command)
            .refused(1, &["data/pepper", "put it back", "peppers.keys.p1"]);
        assert!(!pepper.exists());
    }
    std::fs::write(&pepper, kept).unwrap();
    assert_eq!(program.keys(&["--operators"]).len(), 1);
}

fn a_schema_that_is_missing_is_refused_where_it_may_not_be_made(place: Place) {
    let program = Program::new(place).with("KEYS_DATABASE__AUTO_MIGRATE", "false");
    for command in every_use_of_keys() {
        program
            .run(&command)
            .refused(1, &["`keys-server migrate`", "database.url"]);
    }
    let ran = program.run(&["migrate"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    program.key(&program.account("pro"));
}

const NEWER: &str = "insert into __diesel_schema_migrations (version) values ('20990101000000'); \
                     insert into schema_compatibility (migration, oldest) \
                     values ('20990101000000', '20261130000300')";

#[tokio::test]
async fn server_goes_on_with_a_newer_schema_that_allows_it_and_says_so_once() {
    let database = Database::create().await;
    let mut server = Server::builder(BINARY)
        .postgres(&database.url())
        .start()
        .await;
    let operator = server.operator_key("test");
    assert_eq!(database.sql(NEWER), "");
    for _ in 0..2 {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let answer = server.get("/readyz").send().await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let created = server.post("/v1/accounts").bearer(&operator);
        let created = created.json(&json!({"plan": "pro"})).send().await;
        assert_eq!(created.status, 201, "{}", created.body);
        assert!(server.command(["migrate"]).status.success());
        server.stop();
        server.start_again().await;
    }
    // Two starts on it, and one server that was running at the time of the migration.
    let said = "migrated by a newer program";
    assert_eq!(server.stderr().matches(said).count(), 3);

    let contrary =
        "update schema_compatibility set oldest = migration where migration = '20990101000000'";
    assert_eq!(database.sql(contrary), "");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let answer = server.get("/readyz").send().await;
    assert_eq!(answer.status, 503, "{}", answer.body);
}

#[test]
fn database_of_a_newer_program_is_refused() {
    let program = Program::new(Place::Postgres);
    assert_eq!(program.run(&["migrate"]).code, Some(0));
    let later = "insert into __diesel_schema_migrations (version) values ('20990101000000')";
    assert_eq!(program.database().sql(later), "");
    let words = ["newer than this program", "20990101000000"];
    program.run(&["migrate"]).refused(1, &words);
    program.run(&["serve"]).refused(1, &words);
    let program = program.with("KEYS_DATABASE__AUTO_MIGRATE", "false");
    program.run(&["serve"]).refused(1, &words);
}

#[test]
fn unreachable_database_is_refused_by_name_and_its_password_never_shown() {
    for url in [
        format!("postgres://keys:{PASSWORD}@127.0.0.1:1/keys"),
        format!("postgres://keys:{PASSWORD}@127.0.0.1:1/keys?sslmode=require"),
        format!("postgres://keys:{PASSWORD}@host.invalid/keys"),
        format!("postgres://keys:{PASSWORD}@127.0.0.1:port/keys"),
        format!("postgres://keys:{PASSWORD}@127.0.0.1/keys?sslmode=perhaps"),
        format!("postgres://keys:{PASSWORD}@127.0.0.1/keys?nonsense=1"),
        format!("postgres:/keys:{PASSWORD}@127.0.0.1/keys"),
        format!("mysql://keys:{PASSWORD}@127.0.0.1/keys"),
    ] {
        for format in ["text", "json"] {
            let program = Program::new(Place::Sqlite)
                .with("KEYS_DATABASE__URL", &url)
                .with("KEYS_PEPPERS__KEYS__P1", PEPPER)
                .with("KEYS_LOG__FILTER", "trace")
                .with("KEYS_LOG__FORMAT", format);
            for command in [&[][..], &["migrate"], &["account", "list"]] {
                let ran = program.run(command).refused(1, &["database.url"]);
                assert!(!ran.stderr.contains("hunter2"), "{ran:#?}");
                assert!(!ran.stderr.contains(PEPPER), "{ran:#?}");
            }
        }
    }
}

fn trace_logs_hold_no_secret_and_leave_results_alone(place: Place) {
    let mut program = Program::new(place)
        .with("KEYS_LOG__FILTER", "trace")
        .with("KEYS_PEPPERS__KEYS__P1", PEPPER);
    if place == Place::Postgres {
        // The server asks for no password, and accepts any.
        let url = program.database().url();
        let url = url.replace("postgres@", &format!("postgres:{PASSWORD}@"));
        program = program.with("KEYS_DATABASE__URL", &url);
    }
    for format in ["text", "json"] {
        program = program.with("KEYS_LOG__FORMAT", format);
        let run = |arguments: &[&str]| -> Ran {
            let ran = program.run(arguments);
            assert_eq!(ran.code, Some(0), "{ran:#?}");
            assert_eq!(ran.stdout.lines().count(), 1, "{ran:#?}");
            ran
        };
        let operator = run(&["operator-key", "create", "--name", "x"]);
        let account = run(&["account", "create", "--plan", "pro"]);
        let key = run(&["key", "create", "--account", account.stdout.trim()]);
        for ran in [&operator, &account, &key] {
            for secret in [operator.stdout.trim(), key.stdout.trim(), PASSWORD, PEPPER] {
                assert!(!ran.stderr.contains(secret), "{ran:#?}");
            }
        }
    }
}

#[test]
fn every_command_has_a_help_text_and_no_other_command_does() {
    let program = Program::new(Place::Sqlite);
    let mut found = BTreeSet::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(command) = open.pop() {
        let mut arguments = command.clone();
        arguments.push("--help".to_owned());
        let help = program.run(&arguments).succeeded().stdout;
        let about = help.lines().next().unwrap_or_default();
        assert!(about.len() > 3 && !about.starts_with("Usage"), "{help}");
        let usage = format!(
            "Usage: {}",
            ["keys-server".to_owned()]
                .into_iter()
                .chain(command.clone())
                .collect::<Vec<_>>()
                .join(" ")
        );
        assert!(help.contains(&usage), "{help}");
        let listed = help.split("\nCommands:\n").nth(1).unwrap_or_default();
        for line in listed.lines().take_while(|line| !line.is_empty()) {
            let (name, text) = line.trim_start().split_once(' ').unwrap();
            assert!(!text.trim().is_empty(), "{help}");
            if name != "help" {
                open.push([command.clone(), vec![name.to_owned()]].concat());
            }
        }
        found.insert(command.join(" "));
    }
    let expected = [
        "",
        "account",
        "account create",
        "account list",
        "account set-plan",
        "completions",
        "key",
        "key create",
        "key disable",
        "key enable",
        "key list",
        "key revoke",
        "key rotate",
        "key set",
        "key show",
        "migrate",
        "operator-key",
        "operator-key create",
        "operator-key set-scopes",
        "serve",
        "session",
        "session end",
    ];
    assert!(found.iter().eq(expected.iter()), "{found:?}");
    assert!(!program.folder().join("data").exists());
}

#[test]
fn version_is_printed_alone() {
    let version = format!("keys-server {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(Program::new(Place::Sqlite).line(&["--version"]), version);
}

#[test]
fn completions_are_printed_for_every_shell_without_any_setting() {
    // Invalid settings do not prevent it.
    let program = Program::new(Place::Sqlite).with("KEYS_HTTP__LISTEN", "nowhere");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = program.run(&["completions", shell]).succeeded().stdout;
        for word in ["keys-server", "operator-key", "set-plan", "external-id"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        if shell == "bash" {
            let path = program.folder().join("completions");
            std::fs::write(&path, &script).unwrap();
            let checked = std::process::Command::new("bash")
                .arg("-n")
                .arg(path)
                .output();
            let checked = checked.expect("bash is installed");
            assert!(checked.status.success(), "{checked:?}");
        }
    }
    assert!(!program.folder().join("data").exists());
}

#[tokio::test]
async fn first_operator_key_is_in_a_file_for_its_owner_and_in_no_log() {
    let mut server = Server::builder(BINARY).start().await;
    let said = server.stdout();
    let path = server.folder().join("data/first-operator-key");
    assert_eq!(mode(&path), 0o600);
    let key = std::fs::read_to_string(&path).unwrap();
    let key = key.trim();
    SecretKey::parse(key).unwrap();
    let answer = server.get("/v1/accounts").bearer(key).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    for said in [&said, &server.stderr()] {
        assert!(said.contains("data/first-operator-key"), "{said}");
        assert!(!said.contains(&key[12..]), "{said}");
    }

    for _ in 0..2 {
        assert!(server.stop().success());
        server.start_again().await;
        assert_eq!(server.stdout(), said, "a later start says nothing there");
        assert!(
            !server.stderr().contains("operator_"),
            "{}",
            server.stderr()
        );
    }
    // Also when no usable operator key is left.
    let ran = server.command(["key", "list", "--operators", "--json"]);
    let listed: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let id = listed[0]["id"].as_str().unwrap();
    let revoked = server.command(["key", "revoke", id, "--force"]);
    assert!(revoked.status.success());
    assert!(server.stop().success());
    server.start_again().await;
    assert_eq!(server.stdout(), said);
    let hint = "keys-server operator-key create";
    assert!(server.stderr().contains(hint), "{}", server.stderr());
}

#[tokio::test]
async fn first_start_after_migrate_makes_the_first_operator_key() {
    let program = Program::new(Place::Sqlite);
    assert_eq!(program.run(&["migrate"]).code, Some(0));
    let url = format!("sqlite://{}/data/keys.db", program.folder().display());
    let server = Server::builder(BINARY)
        .env("KEYS_DATABASE__URL", url)
        .start()
        .await;
    let key = program.folder().join("data/first-operator-key");
    let key = std::fs::read_to_string(key).unwrap();
    let answer = server.get("/v1/accounts").bearer(key.trim()).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn first_operator_key_is_not_lost_where_nothing_can_be_printed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    // An existing file is not overwritten.
    std::fs::write(folder.path().join("data/first-operator-key"), "earlier").unwrap();
    let full = || {
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let mut process = std::process::Command::new(BINARY)
        .env("KEYS_HTTP__LISTEN", "127.0.0.1:0")
        .current_dir(folder.path())
        .stdin(std::process::Stdio::null())
        .stdout(full())
        .stderr(full())
        .spawn()
        .unwrap();
    let watch = keys_testkit::process::Watch::over_process(process.id()).unwrap();
    let path = folder.path().join("data/first-operator-key-2");
    let start = std::time::Instant::now();
    while !std::fs::read_to_string(&path).is_ok_and(|key| key.ends_with('\n')) {
        assert_eq!(process.try_wait().unwrap(), None, "the server ended");
        assert!(start.elapsed() < std::time::Duration::from_mins(1));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    SecretKey::parse(std::fs::read_to_string(&path).unwrap().trim()).unwrap();
    let earlier = std::fs::read_to_string(folder.path().join("data/first-operator-key"));
    assert_eq!(earlier.unwrap(), "earlier");
    #[cfg(target_os = "linux")]
    {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
        let core = limits.lines().find(|line| line.contains("core file size"));
        let core: Vec<_> = core.unwrap().split_whitespace().collect();
        assert_eq!(core[4..6], ["0", "0"], "{core:?}");
    }
    process.kill().unwrap();
    process.wait().unwrap();
    watch.disarm();
}

#[tokio::test]
async fn no_start_on_postgres_prints_an_operator_key() {
    let database = Database::create().await;
    let mut server = Server::builder(BINARY)
        .postgres(&database.url())
        .start()
        .await;
    let hint = "keys-server operator-key create --name NAME";
    server.until_logged(hint).await;
    assert_eq!(database.sql("select count(*) from api_key"), "0\n");
    let key = server.operator_key("the command makes it");
    assert!(server.stop().success());
    server.start_again().await;
    assert_eq!(server.stdout(), "");
    assert_eq!(server.stderr().matches(hint).count(), 1);
    assert!(!server.stderr().contains(&key));
    let answer = server.get("/v1/accounts").bearer(&key).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Returns the permissions of a file or folder.
fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn data_is_for_its_owner_alone_whatever_the_umask() {
    let server = Server::builder("/bin/sh")
        .argument("-c")
        .argument("umask 000; exec \"$0\"")
        .argument(BINARY)
        .start()
        .await;
    let data = server.folder().join("data");
    assert_eq!(mode(&data), 0o700);
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(&data).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
        names.insert(entry.file_name().into_string().unwrap());
    }
    let expected = ["keys.db", "keys.db-shm", "keys.db-wal", "pepper"];
    let expected = BTreeSet::from(expected.map(str::to_owned));
    assert!(names.is_superset(&expected), "{names:?}");
}

#[test]
fn database_url_in_the_environment_is_warned_of_and_never_shown() {
    let program = Program::new(Place::Sqlite).with("DATABASE_URL", "postgres://u:hunter2@h/d");
    let ran = program.run(&["account", "list"]);
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.stderr.contains("DATABASE_URL") && ran.stderr.contains("database.url"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
}

#[test]
fn line_end_after_the_database_url_makes_no_second_database() {
    let program =
        Program::new(Place::Sqlite).with("KEYS_DATABASE__URL", "sqlite://data/keys.db\r\n");
    assert_eq!(program.run(&["migrate"]).code, Some(0));
    assert!(program.folder().join("data/keys.db").exists());
}

#[test]
fn tables_show_what_names_hide_and_json_stays_json() {
    let program = Program::new(Place::Sqlite);
    let account = program.run(&["account", "create", "--plan", "pro"]).stdout;
    let account = account.trim();
    for name in ["\u{200b}", "\u{202e}yek"] {
        let refused = program.run(&["key", "create", "--account", account, "--name", name]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        let refused = program.run(&["account", "create", "--plan", "pro", "--external-id", name]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
    }
    let named = [
        "key",
        "create",
        "--account",
        account,
        "--name",
        "a\u{200d}b",
    ];
    assert_eq!(program.run(&named).code, Some(0));
    let table = program.run(&["key", "list", "--account", account]).stdout;
    assert!(table.contains(r"a\u{200d}b"), "{table}");
    let json = program
        .run(&["key", "list", "--account", account, "--json"])
        .stdout;
    let listed: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(listed[0]["name"], "a\u{200d}b");
}
