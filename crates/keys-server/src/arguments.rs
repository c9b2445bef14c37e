//! The command line.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use keys_core::{
    AccountId, AllowedNetworks, ExternalId, KeyId, KeyName, KeyPrefix, PlanName, Scope, Timestamp,
};

/// Everything an operator's key may manage.
pub(crate) const OPERATOR_SCOPES: [&str; 5] = [
    "accounts:read",
    "accounts:write",
    "keys:read",
    "keys:write",
    "keys:verify",
];

#[expect(clippy::doc_markdown, reason = "the text is shown in a terminal")]
/// Issues, lists, verifies and revokes API keys.
///
/// Without a command it serves, on an embedded database under ./data unless configured otherwise. Settings come from
/// the file named by --config or KEYS_CONFIG, then from the environment: KEYS_HTTP__LISTEN for `http.listen`.
///
/// Results go to standard output, everything else to standard error. The exit code is 0, 1 for a refusal or a
/// failure, 2 for wrong usage.
#[derive(Debug, Parser)]
#[command(name = "keys-server", version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// A file of settings, in TOML.
    #[arg(long, env = "KEYS_CONFIG", global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve HTTP until told to stop by SIGTERM or Ctrl-C. The default.
    Serve,
    /// Bring the database's schema up to date.
    Migrate(MigrateArguments),
    /// Operators' keys: what /v1 is used with.
    #[command(subcommand)]
    OperatorKey(OperatorKeyCommand),
    /// Accounts, which hold keys.
    #[command(subcommand)]
    Account(AccountCommand),
    /// Keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArguments {
    /// List stored rows that break a rule of this program, and change nothing. The exit code is 1 if there are some.
    #[arg(long, conflicts_with = "create")]
    pub check: bool,
    /// Create an empty SQLite database even if other files show that there was one before, or setting
    /// `database.create` is false. The pepper file stays.
    #[arg(long)]
    pub create: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperatorKeyCommand {
    /// Make an operator's key and print it, once.
    Create {
        /// What it is called.
        #[arg(long, value_parser = KeyName::from_name)]
        name: KeyName,
        /// Address or CIDR network it may be used from. Repeat for more; without, any.
        #[arg(long = "ip", value_name = "CIDR", value_parser = network)]
        ips: Vec<String>,
        /// What it may manage. Repeat for more; without, everything: accounts:read, accounts:write, keys:read,
        /// keys:write, keys:verify.
        #[arg(long = "scope", value_name = "SCOPE", value_parser = operator_scope)]
        scopes: Vec<Scope>,
        /// When it expires, as 2027-12-31T23:59:59Z. Without, never.
        #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_rfc3339)]
        expires: Option<Timestamp>,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Create an account and print its id.
    Create {
        /// Its plan, one of `plans.*` in the settings.
        #[arg(long)]
        plan: PlanName,
        /// What your own system calls it. Unique.
        #[arg(long, value_name = "ID")]
        external_id: Option<ExternalId>,
        #[command(flatten)]
        output: Output,
    },
    /// List accounts, oldest first.
    List {
        /// Only the account with this external id.
        #[arg(long, value_name = "ID", value_parser = ExternalId::from_stored)]
        external_id: Option<ExternalId>,
        /// At most this many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Put an account on another plan. Takes effect on the next request.
    SetPlan {
        /// The account.
        #[arg(long, value_name = "ID")]
        account: AccountId,
        /// The plan.
        #[arg(long)]
        plan: PlanName,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key for an account and print it, once.
    Create {
        /// The account.
        #[arg(long, value_name = "ID")]
        account: AccountId,
        /// What it is called.
        #[arg(long, value_parser = KeyName::from_name)]
        name: Option<KeyName>,
        /// What it starts with. Without, as `http.flat.key_prefix` says.
        #[arg(long)]
        prefix: Option<KeyPrefix>,
        /// Address or CIDR network it may be used from. Repeat for more; without, any.
        #[arg(long = "ip", value_name = "CIDR", value_parser = network)]
        ips: Vec<String>,
        /// What it may be used for. Repeat for more.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<Scope>,
        /// When it expires, as 2027-12-31T23:59:59Z. Without, never.
        #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_rfc3339)]
        expires: Option<Timestamp>,
        #[command(flatten)]
        output: Output,
    },
    /// List keys, newest first.
    List {
        #[command(flatten)]
        owner: Owner,
        /// At most this many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Revoke a key of any kind, for good.
    Revoke {
        /// The key's id (not the key itself).
        #[arg(value_parser = KeyIdParser)]
        id: KeyId,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Owner {
    /// The keys of this account.
    #[arg(long, value_name = "ID")]
    pub account: Option<AccountId>,
    /// Operators' keys.
    #[arg(long)]
    pub operators: bool,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// Print everything there is to say, as JSON.
    #[arg(long)]
    pub json: bool,
}

/// One entry of an address list.
fn network(text: &str) -> Result<String, &'static str> {
    match AllowedNetworks::parse([text]) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("not an IPv4 or IPv6 address or CIDR network"),
    }
}

/// One scope of an operator.
fn operator_scope(text: &str) -> Result<Scope, String> {
    let known = OPERATOR_SCOPES.contains(&text);
    let scope = text.parse().ok().filter(|_| known);
    scope.ok_or_else(|| format!("an operator's scopes are {}", OPERATOR_SCOPES.join(", ")))
}

/// Reads a key's id. Somebody may paste the key itself instead, which the usual message would repeat.
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

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
