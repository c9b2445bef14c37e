//! The commands except `serve`.

use std::collections::BTreeMap;
use std::error::Error;

use anyhow::{Context as _, bail};
use clap::CommandFactory as _;
use keys_core::{
    AllowedNetworks, KeyId, KeyKind, KeyLimits, LimitName, Metadata, OperatorScope, Revocation,
    Scope, ScopeSet,
};
use keys_service::ports::{
    AccountPatch, AccountQuery, InvalidKeyPatch, KEYS_PER_PAGE_MAX, KeyPatch, KeyQuery,
    KeySelection, LimitsPatch, MetadataPatch, QuotaPatch, UnboundedFilter,
};
use keys_service::{
    AccountError, Actor, FindKeysError, FoundKeys, IssueError, IssueField, Issued, KeyDraft,
    KeyService, LastOperator, NewAccount, OperatorKeyDraft, RevokeError, Revoked, RotateError,
    Rotation, UpdateKeyError,
};
use serde_json::{Value, json};

use crate::arguments::{
    AccountCommand, Arguments, Command, KeyChanges, KeyCommand, KeyListArguments,
    OperatorKeyCommand, Output, RevokedKeys, SessionCommand, Why,
};
use crate::config::Settings;
use crate::embedded::Creation;
use crate::open;
use crate::output;
use crate::telemetry;

/// Prints the completion script of a shell.
pub(crate) fn completions(shell: clap_complete::Shell) {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut std::io::stdout());
}

/// Runs one command.
pub(crate) async fn run(command: Command, settings: &Settings) -> anyhow::Result<()> {
    match command {
        Command::Serve | Command::Completions { .. } => Ok(()),
        Command::Migrate(arguments) if arguments.check => check(arguments.output, settings).await,
        Command::Migrate(arguments) => {
            let creation = if arguments.create {
                Creation::Asked
            } else {
                Creation::FirstStart
            };
            open::migrate(settings, creation).await?;
            telemetry::say("the database is up to date");
            Ok(())
        }
        Command::OperatorKey(command) => operator_key(command, settings).await,
        Command::Account(command) => account(command, settings).await,
        Command::Key(command) => key(command, settings).await,
        Command::Session(command) => session(command, settings).await,
    }
}

/// Lists the stored rows that break a rule of this program. They are printed as they are found,
/// because there may be many.
async fn check(output: Output, settings: &Settings) -> anyhow::Result<()> {
    let store = open::store(settings).await?;
    let mut written = Ok(());
    let count = store
        .check_rows(|fault| {
            if written.is_ok() {
                written = output::line(&output::row_fault(&fault, output.json));
            }
        })
        .await
        .context("reading the database of setting `database.url`")?;
    written?;
    if count > 0 {
        bail!(
            "{count} columns of stored rows cannot be read: the keys they belong to are refused; mend them by SQL,              or an account by PATCH /v1/accounts/{{id}}"
        );
    }
    telemetry::say("every stored row can be read");
    Ok(())
}

/// Returns the scopes of an operator key: those named, or all.
pub(crate) fn operator_scopes(named: &[OperatorScope]) -> ScopeSet {
    let scopes = if named.is_empty() {
        &OperatorScope::ALL
    } else {
        named
    };
    scopes.iter().copied().collect()
}

async fn operator_key(command: OperatorKeyCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        OperatorKeyCommand::Create {
            name,
            ips,
            scopes,
            expires,
            output,
        } => {
            let draft = OperatorKeyDraft::new(name)
                .allowed_networks(networks(&ips)?)
                .scopes(operator_scopes(&scopes))
                .expires_at(expires);
            let service = open::open(settings).await?.service;
            let issued = service
                .issue_operator_key(&Actor::system(), draft)
                .await
                .map_err(not_made)?;
            print_issued(&issued, output)
        }
        OperatorKeyCommand::SetScopes {
            id,
            scopes,
            force,
            output,
        } => {
            let scopes = operator_scopes(&scopes);
            let names: Vec<String> = scopes.iter().map(ToString::to_string).collect();
            let last = if force {
                LastOperator::LetGo
            } else {
                LastOperator::Keep
            };
            let service = open::open(settings).await?.service;
            let changed = service
                .set_operator_scopes(&Actor::system(), id, scopes, last)
                .await
                .map_err(forcible)
                .context("nothing was changed")?;
            if changed.is_none() {
                bail!("{id}: there is no such operator key, or it is revoked");
            }
            print(
                output,
                &format!("{id} has the scopes {}", names.join(", ")),
                || json!({ "id": id.to_string(), "scopes": names }),
            )
        }
    }
}

/// Names the argument that permits what was refused.
fn forcible(error: RevokeError) -> anyhow::Error {
    match error {
        RevokeError::LastOperator => {
            anyhow::Error::new(error).context("pass --force if that is intended")
        }
        error => error.into(),
    }
}

async fn account(command: AccountCommand, settings: &Settings) -> anyhow::Result<()> {
    let service = open::open(settings).await?.service;
    match command {
        AccountCommand::Create {
            plan,
            external_id,
            output,
        } => {
            let new = NewAccount::new(plan).external_id(external_id);
            let account = service
                .create_account(&Actor::system(), new)
                .await
                .map_err(|error| match error {
                    AccountError::UnknownPlan => at_fault("--plan", error),
                    AccountError::ExternalIdTaken => at_fault("--external-id", error),
                    error => error.into(),
                })
                .context("the account was not created")?;
            print(output, &account.id.to_string(), || {
                output::account(&account)
            })
        }
        AccountCommand::List {
            external_id,
            limit,
            output,
        } => {
            let query = AccountQuery::new(limit).external_id(external_id);
            let page = service.list_accounts(query).await?;
            if page.next.is_some() {
                telemetry::say(&format!(
                    "there are more than {limit} accounts: raise --limit to see them"
                ));
            }
            print(output, &output::account_table(&page.accounts), || {
                page.accounts.iter().map(output::account_entry).collect()
            })
        }
        AccountCommand::SetPlan {
            account,
            plan,
            output,
        } => {
            let patch = AccountPatch::default().plan(plan);
            let (account, _) = service
                .update_account(&Actor::system(), account, patch)
                .await
                .map_err(|error| match error {
                    AccountError::UnknownPlan => at_fault("--plan", error),
                    AccountError::NotFound => at_fault("--account", error),
                    error => error.into(),
                })
                .context("nothing was changed")?;
            print(
                output,
                &format!("{} is on plan {}", account.id, account.plan),
                || output::account(&account),
            )
        }
    }
}

async fn key(command: KeyCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create {
            account,
            name,
            prefix,
            ips,
            scopes,
            expires,
            metadata,
            limits,
            output,
        } => {
            let draft = KeyDraft::new(
                account,
                prefix.unwrap_or_else(|| settings.http.flat.key_prefix.clone()),
            )
            .name(name)
            .allowed_networks(networks(&ips)?)
            .scopes(Some(scope_set(&scopes)?))
            .expires_at(expires)
            .metadata(Metadata::new(metadata).context("--metadata")?)
            .limits(KeyLimits::new(limits).context("--limit")?);
            let service = open::open(settings).await?.service;
            let issued = service
                .issue_key(&Actor::system(), draft)
                .await
                .map_err(not_made)?;
            print_issued(&issued, output)
        }
        KeyCommand::List(arguments) => list_keys(*arguments, settings).await,
        KeyCommand::Show { id, output } => {
            let service = open::open(settings).await?.service;
            let Some(found) = service.find_key(&Actor::system(), id).await? else {
                bail!("{id}: there is no such key");
            };
            let Ok(details) = found else {
                bail!(
                    "{id}: the stored row cannot be read, so the key is refused; `keys-server migrate --check` names its columns"
                );
            };
            let now = service.now();
            print(output, &output::key_sheet(&details, now), || {
                output::key_details(&details, now)
            })
        }
        KeyCommand::Set {
            id,
            changes,
            output,
        } => {
            let change = key_patch(*changes)?;
            change_key(id, change, "is changed", output, settings).await
        }
        KeyCommand::Disable { id, output } => {
            let change = KeyPatch::default().disabled(true);
            change_key(id, change, "is disabled", output, settings).await
        }
        KeyCommand::Enable { id, output } => {
            let change = KeyPatch::default().disabled(false);
            change_key(id, change, "is enabled", output, settings).await
        }
        KeyCommand::Rotate {
            id,
            grace,
            expires,
            output,
        } => {
            let rotation = Rotation::new(id).grace(grace).expires_at(expires);
            let service = open::open(settings).await?.service;
            let rotated = service
                .rotate_key(&Actor::system(), rotation)
                .await
                .map_err(|error| match error {
                    RotateError::ExpiryNotInFuture => at_fault("--expires", error),
                    RotateError::NotFound
                    | RotateError::Unreadable
                    | RotateError::Ended
                    | RotateError::Disabled
                    | RotateError::Rotated { .. }
                    | RotateError::AccountDenied(_) => {
                        anyhow::Error::new(error).context(id.to_string())
                    }
                    error => error.into(),
                })
                .context("the key was not rotated")?;
            print(output, rotated.issued.secret.expose(), || {
                output::rotated(&rotated)
            })
        }
        KeyCommand::Revoke {
            keys,
            why,
            force,
            output,
        } => revoke(keys, why, force, output, settings).await,
    }
}

async fn revoke(
    keys: RevokedKeys,
    why: Why,
    force: bool,
    output: Output,
    settings: &Settings,
) -> anyhow::Result<()> {
    let ids = keys.ids;
    let (selection, what) = match (keys.account, keys.created_by) {
        (Some(account), _) => (
            KeySelection::of_account(account),
            format!("all keys of account {account}"),
        ),
        (None, Some(creator)) => {
            let what = format!("all keys that {creator} made");
            (KeySelection::created_by(creator), what)
        }
        (None, None) => (KeySelection::ids(ids.clone()), counted(ids.len(), "key")),
    };
    let selection = if force {
        selection.even_the_last_operator()
    } else {
        selection
    };
    if !confirmed(&why, &format!("Revoke {what}?"))? {
        bail!("nothing was revoked");
    }
    let service = open::open(settings).await?.service;
    let revocation = Revocation::new(why.reason).note(why.note);
    let (revoked, remaining) = revoke_all(&service, &selection, &revocation)
        .await
        .context("not all keys were revoked")?;
    if let [id] = ids[..]
        && revoked == [id]
    {
        return print(
            output,
            &format!("{id} is revoked"),
            || json!({ "id": id.to_string(), "revoked": true }),
        );
    }
    let missing: Vec<String> = ids
        .iter()
        .filter(|id| !revoked.contains(id))
        .map(KeyId::to_string)
        .collect();
    // Of a leaked key that was revoked before, the keys that it made may remain.
    if missing.is_empty() || !revoked.is_empty() {
        print_count(output, revoked.len(), remaining, "key", "revoked")?;
    }
    if !missing.is_empty() {
        bail!(
            "{}: there is no such key, or it is revoked already",
            missing.join(", ")
        );
    }
    Ok(())
}

/// Revokes what is selected, a thousand keys in a transaction. Returns the revoked keys, and the
/// number of those that are left because they could not be revoked.
async fn revoke_all(
    service: &KeyService,
    selection: &KeySelection,
    revocation: &Revocation,
) -> anyhow::Result<(Vec<KeyId>, u64)> {
    let mut revoked = Vec::new();
    loop {
        let Revoked {
            keys, remaining, ..
        } = service
            .revoke_keys(&Actor::system(), selection.clone(), revocation.clone())
            .await
            .map_err(forcible)?;
        let is_stuck = keys.is_empty();
        revoked.extend(keys);
        if remaining == 0 || is_stuck {
            return Ok((revoked, remaining));
        }
        telemetry::say(&format!(
            "{} revoked so far, {remaining} remain",
            revoked.len()
        ));
    }
}

async fn session(command: SessionCommand, settings: &Settings) -> anyhow::Result<()> {
    let SessionCommand::End {
        id,
        account,
        subject,
        why,
        output,
    } = command;
    let what = match (&id, &subject) {
        (Some(id), _) => format!("End session {id}?"),
        (None, Some(subject)) => {
            let subject = keys_core::escaped(subject.as_str());
            format!("End all sessions of {subject} in account {account}?")
        }
        (None, None) => format!("End all sessions of account {account}?"),
    };
    if !confirmed(&why, &what)? {
        bail!("no session was ended");
    }
    let service = open::open(settings).await?.service;
    let revocation = Revocation::new(why.reason).note(why.note);
    let system = Actor::system();
    if let Some(id) = id {
        let ended = service.end_session(&system, account, id, revocation);
        if ended.await?.is_none() {
            bail!("{id}: the account has no such session, or it has ended");
        }
        return print(
            output,
            &format!("{id} has ended"),
            || json!({ "id": id.to_string(), "revoked": true }),
        );
    }
    let mut count = 0;
    loop {
        let ended = service
            .end_sessions(&system, account, subject.clone(), revocation.clone())
            .await
            .map_err(|error| at_fault("--account", error))?;
        count += ended.keys.len();
        if ended.remaining == 0 || ended.keys.is_empty() {
            return print_count(output, count, ended.remaining, "session", "ended");
        }
    }
}

async fn list_keys(arguments: KeyListArguments, settings: &Settings) -> anyhow::Result<()> {
    let kind = match (arguments.owner.operators, arguments.sessions) {
        (true, _) => KeyKind::Operator,
        (false, true) => KeyKind::Session,
        (false, false) => KeyKind::Account,
    };
    let limit = arguments.limit;
    let mut query = KeyQuery::new(limit)
        .kind(kind)
        .account(arguments.owner.account)
        .external_id(arguments.external_id)
        .prefix(arguments.prefix)
        .name(arguments.name)
        .statuses(arguments.status)
        .scope(arguments.scope)
        .created_by(arguments.created_by)
        .created_after(arguments.created_after)
        .created_before(arguments.created_before)
        .last_used_before(arguments.last_used_before)
        .expires_before(arguments.expires_before)
        .metadata(Metadata::new(arguments.metadata).context("--metadata")?)
        .sort(arguments.sort);
    let service = open::open(settings).await?.service;
    let mut list = service
        .find_keys(&Actor::system(), query.clone())
        .await
        .map_err(not_listed)?;
    while let (Some(cursor), Some(missing)) = (list.next, missing(&list, limit)) {
        query = query.after(Some(cursor));
        query.limit = missing.min(KEYS_PER_PAGE_MAX);
        let page = service.find_keys(&Actor::system(), query.clone()).await;
        let page = page.map_err(not_listed)?;
        list.keys.extend(page.keys);
        list.unreadable.extend(page.unreadable);
        list.next = page.next;
    }
    if list.next.is_some() {
        telemetry::say(&format!(
            "there are more than {limit} keys: raise --limit to see more"
        ));
    }
    if let Some(others) = list.others.filter(|others| others.count > 0 || others.more) {
        let at_least = if others.more { "at least " } else { "" };
        telemetry::say(&format!(
            "revoked and expired keys that are not listed: {at_least}{}; add --status revoked,expired to see them",
            others.count
        ));
    }
    let now = service.now();
    print(arguments.output, &output::key_table(&list, now), || {
        let entry = |details| output::key_entry(details, &list, now);
        list.keys.iter().map(entry).collect()
    })
}

/// Returns how many keys the list lacks. `None` if it has all that were asked for.
fn missing(list: &FoundKeys, limit: u32) -> Option<u32> {
    let found = u32::try_from(list.keys.len()).unwrap_or(u32::MAX);
    limit.checked_sub(found).filter(|missing| *missing > 0)
}

fn not_listed(error: FindKeysError) -> anyhow::Error {
    let argument = match &error {
        FindKeysError::AccountNotFound => "--account",
        FindKeysError::Unbounded(filter) => match filter {
            UnboundedFilter::Name => "--name",
            UnboundedFilter::Metadata => "--metadata",
            UnboundedFilter::Kind => "--sessions",
            UnboundedFilter::Status => "--status",
            _ => "--sort",
        },
        _ => return error.into(),
    };
    at_fault(argument, error)
}

/// Prints how many keys were revoked.
fn print_count(
    output: Output,
    count: usize,
    remaining: u64,
    noun: &str,
    verb: &str,
) -> anyhow::Result<()> {
    let text = format!("{} {verb}", counted(count, noun));
    let text = if remaining == 0 {
        text
    } else {
        format!("{text}, {remaining} remain")
    };
    print(
        output,
        &text,
        || json!({ "revoked": count, "remaining": remaining }),
    )
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Asks before a change that cannot be undone, if a person can answer.
fn confirmed(why: &Why, question: &str) -> anyhow::Result<bool> {
    use std::io::{IsTerminal as _, stderr, stdin};

    if why.yes || !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(true);
    }
    telemetry::say(&format!("{question} This cannot be undone. [y/N]"));
    let mut answer = String::new();
    stdin()
        .read_line(&mut answer)
        .context("reading the answer")?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

fn key_patch(changes: KeyChanges) -> anyhow::Result<KeyPatch> {
    let mut patch = KeyPatch::default();
    if changes.name.is_some() || changes.no_name {
        patch = patch.name(changes.name);
    }
    if !changes.ips.is_empty() || changes.any_ip {
        patch = patch.allowed_networks(networks(&changes.ips)?);
    }
    if !changes.scopes.is_empty() || changes.no_scopes {
        patch = patch.scopes(scope_set(&changes.scopes)?);
    }
    if changes.expires.is_some() || changes.never_expires {
        patch = patch.expires_at(changes.expires);
    }
    let removed = changes.remove_metadata.into_iter();
    let mut metadata: BTreeMap<Box<str>, Option<Box<str>>> =
        removed.map(|name| (name.into(), None)).collect();
    let set = changes.metadata.into_iter();
    metadata.extend(set.map(|(name, value)| (name.into(), Some(value.into()))));
    if !metadata.is_empty() {
        patch = patch.metadata(MetadataPatch::Merge(metadata));
    }
    let removed = changes.removed_limits.into_iter();
    let mut limits: BTreeMap<LimitName, Option<QuotaPatch>> =
        removed.map(|name| (name, None)).collect();
    let set = changes.limits.into_iter();
    limits.extend(set.map(|(name, quota)| (name, Some(quota.into()))));
    if !limits.is_empty() {
        patch = patch.limits(LimitsPatch::Merge(limits));
    }
    Ok(patch)
}

/// Changes a key of any kind but a session, and prints it.
async fn change_key(
    id: KeyId,
    patch: KeyPatch,
    outcome: &str,
    output: Output,
    settings: &Settings,
) -> anyhow::Result<()> {
    let service = open::open(settings).await?.service;
    let changed = service.update_key(&Actor::system(), id, patch).await;
    let (details, _) = changed
        .map_err(|error| match error {
            UpdateKeyError::Invalid(InvalidKeyPatch::ExpiryNotInFuture) => {
                at_fault("--expires", error)
            }
            UpdateKeyError::Invalid(InvalidKeyPatch::Metadata(_)) => at_fault("--metadata", error),
            UpdateKeyError::Invalid(InvalidKeyPatch::OperatorScopes) => at_fault("--scope", error),
            UpdateKeyError::Invalid(_) => at_fault("--limit", error),
            _ => error.into(),
        })
        .with_context(|| format!("{id}: nothing was changed"))?;
    print(output, &format!("{id} {outcome}"), || {
        output::key_details(&details, service.now())
    })
}

fn scope_set(scopes: &[Scope]) -> anyhow::Result<ScopeSet> {
    ScopeSet::parse(scopes.iter().map(Scope::as_str)).context("--scope")
}

fn networks(ips: &[String]) -> anyhow::Result<AllowedNetworks> {
    AllowedNetworks::parse(ips).context("--ip")
}

/// Names the argument that was refused.
fn at_fault(argument: &'static str, error: impl Error + Send + Sync + 'static) -> anyhow::Error {
    anyhow::Error::new(error).context(argument)
}

fn not_made(error: IssueError) -> anyhow::Error {
    let argument = match error.field() {
        Some(IssueField::ExpiresAt) => Some("--expires"),
        Some(IssueField::AllowedNetworks(_)) => Some("--ip"),
        Some(IssueField::Scopes) => Some("--scope"),
        Some(IssueField::Prefix) => Some("--prefix"),
        Some(IssueField::Limits) => Some("--limit"),
        Some(IssueField::Ttl) => None,
        None => match error {
            IssueError::AccountNotFound
            | IssueError::AccountDenied(_)
            | IssueError::CapReached { .. } => Some("--account"),
            _ => None,
        },
    };
    let error = match argument {
        Some(argument) => at_fault(argument, error),
        None => error.into(),
    };
    error.context("the key was not made")
}

/// Prints only the secret, or the whole result.
fn print_issued(issued: &Issued, output: Output) -> anyhow::Result<()> {
    print(output, issued.secret.expose(), || output::issued(issued))
}

fn print(output: Output, text: &str, json: impl FnOnce() -> Value) -> anyhow::Result<()> {
    if output.json {
        output::line(&serde_json::to_string_pretty(&json())?)?;
    } else {
        output::line(text)?;
    }
    Ok(())
}
