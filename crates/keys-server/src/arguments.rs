//! The command line.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use keys_core::{
    AccountId, AllowedNetworks, CreatedBy, ExternalId, KeyId, KeyName, KeyPrefix, KeyStatus,
    LimitName, Metadata, OperatorScope, PlanName, Quota, RevocationNote, RevocationReason, Scope,
    ShownPrefix, Timestamp,
};
use keys_service::ROTATION_GRACE_MAX;
use keys_service::ports::{KeyOrder, NAME_PART_MAX_CHARS};

#[expect(clippy::doc_markdown, reason = "the text is shown in a terminal")]
/// Issues, lists, verifies and revokes API keys.
///
/// Without a command it serves, on an embedded database under ./data unless configured otherwise.
/// Settings come from the file named by --config or KEYS_CONFIG, then from the environment:
/// KEYS_HTTP__LISTEN for `http.listen`.
///
/// Results go to standard output, everything else to standard error. The exit code is 0 for
/// success, 1 for a refusal or a failure, 2 for wrong usage.
#[derive(Debug, Parser)]
#[command(name = "keys-server", version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// File with settings, in TOML.
    #[arg(long, env = "KEYS_CONFIG", global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve HTTP until SIGTERM or Ctrl-C. The default.
    Serve,
    /// Bring the database's schema up to date.
    Migrate(MigrateArguments),
    /// Manage operator keys (for /v1).
    #[command(subcommand)]
    OperatorKey(OperatorKeyCommand),
    /// Manage accounts.
    #[command(subcommand)]
    Account(AccountCommand),
    /// Keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Sessions of signed-in people.
    #[command(subcommand)]
    Session(SessionCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArguments {
    /// List stored rows that break a rule of this program, and change nothing. The exit code is 1
    /// if there are some.
    #[arg(long, conflicts_with = "create")]
    pub check: bool,
    /// Create an empty SQLite database even if other files show that there was one before, or
    /// setting `database.create` is false. The pepper file is kept.
    #[arg(long)]
    pub create: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperatorKeyCommand {
    /// Create an operator key and print it, once.
    Create {
        /// Name of the key.
        #[arg(long, value_parser = KeyName::from_name)]
        name: KeyName,
        /// Address or CIDR network that may use the key. Repeat for more. Default: any.
        #[arg(long = "ip", value_name = "CIDR", value_parser = network)]
        ips: Vec<String>,
        /// Scope of the key. Repeat for more. Default: all (accounts:read, accounts:write,
        /// keys:read, keys:write, keys:verify, sessions:read, sessions:write, operators:read,
        /// operators:write, events:read).
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<OperatorScope>,
        /// Expiry, as 2027-12-31T23:59:59Z. Default: never.
        #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_rfc3339)]
        expires: Option<Timestamp>,
        #[command(flatten)]
        output: Output,
    },
    /// Replace the scopes of an operator key. Applies from the next request on.
    SetScopes {
        /// Id of the operator key (not the key itself).
        #[arg(value_parser = KeyIdParser)]
        id: KeyId,
        /// Scope of the key. Repeat for more. Scopes that are not named are taken away.
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<OperatorScope>,
        /// Take operators:write even from the last usable operator key that has it.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Create an account and print its id.
    Create {
        /// Plan of the account, one of `plans.*` in the settings.
        #[arg(long)]
        plan: PlanName,
        /// Your own identifier of the account. Unique.
        #[arg(long, value_name = "ID")]
        external_id: Option<ExternalId>,
        #[command(flatten)]
        output: Output,
    },
    /// List accounts, oldest first.
    List {
        /// List only the account with this external id.
        #[arg(long, value_name = "ID", value_parser = ExternalId::from_stored)]
        external_id: Option<ExternalId>,
        /// Maximum number of entries.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Change the plan of an account. Applies from the next request on.
    SetPlan {
        /// Id of the account.
        #[arg(long, value_name = "ID")]
        account: AccountId,
        /// Name of the plan.
        #[arg(long)]
        plan: PlanName,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Create a key of an account and print it, once.
    Create {
        /// Id of the account.
        #[arg(long, value_name = "ID")]
        account: AccountId,
        /// Name of the key.
        #[arg(long, value_parser = KeyName::from_name)]
        name: Option<KeyName>,
        /// Prefix of the key. Default: `http.flat.key_prefix`.
        #[arg(long)]
        prefix: Option<KeyPrefix>,
        /// Address or CIDR network that may use the key. Repeat for more. Default: any.
        #[arg(long = "ip", value_name = "CIDR", value_parser = network)]
        ips: Vec<String>,
        /// Scope of the key. Repeat for more.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<Scope>,
        /// Expiry, as 2027-12-31T23:59:59Z. Default: never.
        #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_rfc3339)]
        expires: Option<Timestamp>,
        /// Entry of the metadata. Repeat for more.
        #[arg(long, value_name = "NAME=VALUE", value_parser = metadata)]
        metadata: Vec<(String, String)>,
        /// Limit of the key on top of that of its plan, as calls=100/60. Repeat for more.
        #[arg(long = "limit", value_name = "NAME=REQUESTS/SECONDS", value_parser = limit)]
        limits: Vec<(LimitName, Quota)>,
        #[command(flatten)]
        output: Output,
    },
    /// List keys that have not ended, newest first.
    List(Box<KeyListArguments>),
    /// Change a key. Fields that are not named stay as they are.
    Set {
        /// Id of the key (not the key itself).
        #[arg(value_parser = KeyIdParser)]
        id: KeyId,
        #[command(flatten)]
        changes: Box<KeyChanges>,
        #[command(flatten)]
        output: Output,
    },
    /// Disable a key: it is refused until it is enabled again.
    Disable {
        /// Id of the key (not the key itself).
        #[arg(value_parser = KeyIdParser)]
        id: KeyId,
        #[command(flatten)]
        output: Output,
    },
    /// Enable a disabled key again.
    Enable {
        /// Id of the key (not the key itself).
        #[arg(value_parser = KeyIdParser)]
        id: KeyId,
        #[command(flatten)]
        output: Output,
    },
    /// Replace a key by a new one and print the new one, once. The old one stays usable for a
    /// while.
    #[command(after_help = "\
Examples:
  keys-server key rotate AaIABCM-dSGDm6wuiBf6VA
  keys-server key rotate AaIABCM-dSGDm6wuiBf6VA --grace 7d --json")]
    Rotate {
        /// Id of the key (not the key itself).
        #[arg(value_parser = KeyIdParser)]
        id: KeyId,
        /// Time for which the old key stays usable, as 90s, 30m, 1h or 7d, at most 7d. 0 ends it at
        /// once.
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = grace)]
        grace: Duration,
        /// Expiry of the new key, as 2027-12-31T23:59:59Z. Default: that of the old key.
        #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_rfc3339)]
        expires: Option<Timestamp>,
        #[command(flatten)]
        output: Output,
    },
    /// Show everything about a key of any kind but its secret.
    Show {
        /// Id of the key (not the key itself).
        #[arg(value_parser = KeyIdParser)]
        id: KeyId,
        #[command(flatten)]
        output: Output,
    },
    /// Revoke keys of any kind by their ids, or all keys of an account, or all keys that a party
    /// made. This cannot be undone.
    Revoke {
        #[command(flatten)]
        keys: RevokedKeys,
        #[command(flatten)]
        why: Why,
        /// Revoke even the last usable operator key with operators:write.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// End one session of an account, those of one person, or all. This cannot be undone.
    End {
        /// Id of the session (not its token).
        #[arg(value_parser = KeyIdParser, conflicts_with = "subject")]
        id: Option<KeyId>,
        /// Id of the account.
        #[arg(long, value_name = "ID")]
        account: AccountId,
        /// End the sessions of this person, your own identifier.
        #[arg(long, value_name = "TEXT", value_parser = ExternalId::from_stored)]
        subject: Option<ExternalId>,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch")]
pub(crate) struct KeyChanges {
    /// New name.
    #[arg(long, value_parser = KeyName::from_name)]
    pub name: Option<KeyName>,
    /// Remove the name.
    #[arg(long, conflicts_with = "name")]
    pub no_name: bool,
    /// Address or CIDR network that may use the key, in place of the present ones. Repeat for more.
    #[arg(long = "ip", value_name = "CIDR", value_parser = network)]
    pub ips: Vec<String>,
    /// Allow every address.
    #[arg(long, conflicts_with = "ips")]
    pub any_ip: bool,
    /// Scope of the key, in place of the present ones. Repeat for more.
    #[arg(long = "scope", value_name = "SCOPE")]
    pub scopes: Vec<Scope>,
    /// Remove all scopes.
    #[arg(long, conflicts_with = "scopes")]
    pub no_scopes: bool,
    /// New expiry, as 2027-12-31T23:59:59Z.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_rfc3339)]
    pub expires: Option<Timestamp>,
    /// Remove the expiry.
    #[arg(long, conflicts_with = "expires")]
    pub never_expires: bool,
    /// Set an entry of the metadata. Repeat for more.
    #[arg(long, value_name = "NAME=VALUE", value_parser = metadata)]
    pub metadata: Vec<(String, String)>,
    /// Remove an entry of the metadata. Repeat for more.
    #[arg(long, value_name = "NAME")]
    pub remove_metadata: Vec<String>,
    /// Set a limit of the key on top of that of its plan, as calls=100/60. Repeat for more.
    #[arg(long = "limit", value_name = "NAME=REQUESTS/SECONDS", value_parser = limit)]
    pub limits: Vec<(LimitName, Quota)>,
    /// Remove a limit of the key. Repeat for more.
    #[arg(long = "remove-limit", value_name = "NAME")]
    pub removed_limits: Vec<LimitName>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct RevokedKeys {
    /// Id of a key (not the key itself). Repeat for more, at most 1,000.
    #[arg(value_name = "ID", value_parser = KeyIdParser, num_args = 0..=1_000)]
    pub ids: Vec<KeyId>,
    /// Revoke all keys of this account.
    #[arg(long, value_name = "ID")]
    pub account: Option<AccountId>,
    /// Revoke all keys of accounts that this party made: operator:ID or subject:TEXT.
    #[arg(long, value_name = "PARTY")]
    pub created_by: Option<CreatedBy>,
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Reason: superseded, leaked, offboarded, unused or other. A leaked key takes its successors
    /// and all keys that they made with it.
    #[arg(long)]
    pub reason: Option<RevocationReason>,
    /// A note of up to 500 characters that is kept with the key.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<RevocationNote>,
    /// Do not ask for confirmation. Without a terminal it is never asked for.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KeyListArguments {
    #[command(flatten)]
    pub owner: Owner,
    /// List the keys of the account with this external id.
    #[arg(long, value_name = "ID", value_parser = ExternalId::from_stored, conflicts_with = "operators")]
    pub external_id: Option<ExternalId>,
    /// List sessions instead of keys. Needs --account, --external-id or --created-by subject:TEXT.
    #[arg(long, conflicts_with = "operators")]
    pub sessions: bool,
    /// List only keys with this shown prefix, such as `sk_live_a1b2`.
    #[arg(long, value_parser = shown_prefix)]
    pub prefix: Option<ShownPrefix>,
    /// List only keys with this text in their name. Needs an account.
    #[arg(long, value_name = "TEXT", value_parser = name_part)]
    pub name: Option<String>,
    /// List only keys with this status: active, rotating, disabled, expired, revoked. Repeat for
    /// more. Default: the first three.
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    pub status: Vec<KeyStatus>,
    /// List only keys with this scope.
    #[arg(long)]
    pub scope: Option<Scope>,
    /// List only keys made by operator:ID or for subject:TEXT.
    #[arg(long, value_name = "CREATOR")]
    pub created_by: Option<CreatedBy>,
    /// List only keys created at this time or later.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_rfc3339)]
    pub created_after: Option<Timestamp>,
    /// List only keys created before this time.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_rfc3339)]
    pub created_before: Option<Timestamp>,
    /// List only keys that were not used at this time or later.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_rfc3339)]
    pub last_used_before: Option<Timestamp>,
    /// List only keys that expire before this time.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_rfc3339)]
    pub expires_before: Option<Timestamp>,
    /// List only keys with this value in their metadata. Repeat for more. Needs an account.
    #[arg(long, value_name = "NAME=VALUE", value_parser = metadata)]
    pub metadata: Vec<(String, String)>,
    /// Order: `created_at`, `last_used_at` or `expires_at`, with - in front for the reverse.
    #[arg(long, value_name = "ORDER", allow_hyphen_values = true)]
    pub sort: Option<KeyOrder>,
    /// Maximum number of entries.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Owner {
    /// List the keys of this account. Default: those of all accounts.
    #[arg(long, value_name = "ID")]
    pub account: Option<AccountId>,
    /// List operator keys.
    #[arg(long)]
    pub operators: bool,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// Print the whole result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Parses an entry of an address list.
fn network(text: &str) -> Result<String, &'static str> {
    match AllowedNetworks::parse([text]) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("not an IPv4 or IPv6 address or CIDR network"),
    }
}

/// Parses a shown prefix, also as the table has it, with two dots.
fn shown_prefix(text: &str) -> Result<ShownPrefix, &'static str> {
    const ERROR: &str = "not the first characters of a key, as `keys-server key list` shows them";
    let text = text.strip_suffix("..").unwrap_or(text);
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ERROR);
    }
    ShownPrefix::from_stored(text.to_owned()).map_err(|_| ERROR)
}

fn name_part(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.chars().nth(NAME_PART_MAX_CHARS).is_some() {
        return Err("not a text of 1 to 255 characters");
    }
    Ok(text.to_owned())
}

/// Parses an entry of metadata.
fn metadata(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("not a name, `=` and a value")?;
    Metadata::new([pair]).map_err(|error| error.to_string())?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// Parses the time for which a rotated key stays usable.
fn grace(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "not a time from 0 to 7d, such as 90s, 30m, 1h or 7d";
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = &text[..text.len() - unit.len()];
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "" if number == "0" => 0,
        _ => return Err(EXPECTED),
    };
    let number: u64 = number.parse().map_err(|_| EXPECTED)?;
    let time = number.checked_mul(seconds).map(Duration::from_secs);
    time.filter(|time| *time <= ROTATION_GRACE_MAX)
        .ok_or(EXPECTED)
}

/// Parses a limit.
fn limit(text: &str) -> Result<(LimitName, Quota), &'static str> {
    const FORM: &str = "must be NAME=REQUESTS/SECONDS, such as calls=100/60";
    let (name, quota) = text.split_once('=').ok_or(FORM)?;
    let (requests, seconds) = quota.split_once('/').ok_or(FORM)?;
    let name = name.parse().map_err(|_| FORM)?;
    let number = |text: &str| text.parse().map_err(|_| FORM);
    let quota = Quota::new(number(requests)?, number(seconds)?).ok_or(FORM)?;
    Ok((name, quota))
}

/// Parses the id of a key. The usual error message would repeat the argument, which may be a key
/// that was pasted by mistake.
#[derive(Debug, Clone, Copy)]
struct KeyIdParser;

impl TypedValueParser for KeyIdParser {
    type Value = KeyId;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<KeyId, clap::Error> {
        let id = value.to_str().and_then(|text| text.parse().ok());
        id.ok_or_else(|| {
            let message = "invalid value for '<ID>': an id is 22 characters, as `keys-server key list` shows it; \
                           it is not the key itself\n";
            clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use std::collections::BTreeSet;

    /// The scopes in a text, beside operators' scopes also those of the same resources that do not
    /// exist.
    fn scopes_in(text: &str) -> BTreeSet<&str> {
        let is_part = |c: char| c.is_ascii_lowercase() || c == ':';
        text.split(|c| !is_part(c))
            .filter(|word| {
                let action = ["accounts:", "keys:", "sessions:", "operators:", "events:"]
                    .iter()
                    .find_map(|resource| word.strip_prefix(resource));
                action.is_some_and(|action| !action.is_empty())
            })
            .collect()
    }

    #[test]
    fn help_and_documents_name_the_scopes_of_operators() {
        const OPERATIONS: &str = include_str!("../../../docs/operations.md");
        const API: [&str; 2] = [
            include_str!("../../../docs/api/management.md"),
            include_str!("../../../docs/api/verification.md"),
        ];
        let all = BTreeSet::from(OperatorScope::ALL.map(OperatorScope::as_str));
        let table = OPERATIONS
            .split_once("| scope | allows |")
            .and_then(|(_, rest)| rest.split_once("\n\n"))
            .map_or("", |(table, _)| table);
        assert_eq!(scopes_in(table), all);
        assert!(scopes_in(&API.concat()).is_subset(&all));
        let command = Arguments::command();
        let create = ["operator-key", "create"]
            .iter()
            .try_fold(&command, |command, name| command.find_subcommand(name))
            .expect("the command is there");
        let scope = create
            .get_arguments()
            .find(|argument| argument.get_id() == "scopes");
        let help = scope.and_then(clap::Arg::get_help).expect("it has help");
        assert_eq!(scopes_in(&help.to_string()), all);
    }

    #[test]
    fn grace_is_a_number_with_a_unit_up_to_a_week() {
        for (text, seconds) in [
            ("0", 0),
            ("0s", 0),
            ("90s", 90),
            ("30m", 1_800),
            ("1h", 3_600),
            ("007d", 604_800),
        ] {
            assert_eq!(grace(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "h",
            "1",
            "00",
            "1 h",
            "1w",
            "-1h",
            "+1h",
            "1.5h",
            "8d",
            "604801s",
            "1hh",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(grace(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
